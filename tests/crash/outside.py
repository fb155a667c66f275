"""The world that steps act upon. It remembers what happened to it, whoever crashes."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from perdure.effects import running_frame


class Memory(Protocol):
    def add(self, line: str) -> None: ...
    def lines(self) -> list[str]: ...


class InMemory:
    """Of a process that is dead nothing more arrives."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.is_dead = False

    def add(self, line: str) -> None:
        if not self.is_dead:
            self._lines.append(line)

    def lines(self) -> list[str]:
        return list(self._lines)


class InFile:
    """Each line is one write to the end: a process that is killed has written all of it or nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def add(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())

    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    def close(self) -> None:
        os.close(self._file)


class Outside:
    def __init__(self) -> None:
        self.memory: Memory = InMemory()
        self.unit = 0.02
        """Seconds of what bodies sleep."""

    def happen(self, what: str) -> None:
        """An effect of the step that runs here: `ran <call> <idempotency key> <what>`."""
        frame = running_frame.get()
        assert frame is not None
        self.memory.add(f"ran {frame.call_id} {frame.idempotency_key} {what}")

    def note(self, what: str) -> None:
        """Of no step."""
        self.memory.add(f"ran - - {what}")

    def has_happened(self, what: str) -> bool:
        return f"ran - - {what}" in self.memory.lines()

    def has_happened_here(self, what: str) -> bool:
        """To the step that runs here, or ran here in another life."""
        frame = running_frame.get()
        assert frame is not None
        return f"ran {frame.call_id} {frame.idempotency_key} {what}" in self.memory.lines()


outside = Outside()


def times(what: str, calls: Container[str], lines: list[str]) -> int:
    """How often it happened to steps of these calls."""
    split = (line.split(" ", 3) for line in lines)
    return sum(kind == "ran" and name == what and call in calls for kind, call, _, name in split)


def check_order(lines: list[str]) -> None:
    """No step ran that was settled: its outcome was recorded, or its body had given it up."""
    settled: set[str] = set()
    for kind, _, key, what in (line.split(" ", 3) for line in lines):
        if kind == "settled":
            settled.add(key)
        else:
            assert key not in settled, f"{what} ran again"
