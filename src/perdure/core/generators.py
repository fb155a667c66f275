"""The async generators of a body that were begun and not ended.

Python tells a loop when one loses its last reference. Where that happens by counting references the place is the
same in every life; the cyclic collector comes at any time, on any thread, in the middle of any other body.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from threading import get_ident
from types import AsyncGeneratorType
from typing import Any

Generator = AsyncGeneratorType[Any, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """`path` is the branch on which it is closed."""

    order: int
    path: str
    generator: weakref.ref[Generator]


class OpenGenerators:
    __slots__ = ("_begun", "_count", "_lost", "_prune_at")

    def __init__(self) -> None:
        self._begun: dict[int, Begun] = {}
        self._count = 0
        self._lost: list[tuple[int, str, Generator]] = []
        self._prune_at = 16

    def begin(self, generator: Generator, path: str) -> None:
        _watch_the_collector()
        if len(self._begun) >= self._prune_at:
            self._begun = {key: begun for key, begun in self._begun.items() if begun.generator() is not None}
            self._prune_at = 16 + 2 * len(self._begun)
        self._count += 1
        self._begun[id(generator)] = Begun(self._count, path, weakref.ref(generator))

    def lose(self, generator: Generator, *, now: bool) -> str | None:
        """Its last reference is gone: the path on which to close it now, or None where it is kept for the end."""
        begun = self._begun.pop(id(generator))
        if now and _collecting_thread != get_ident():
            return begun.path
        self._lost.append((begun.order, begun.path, generator))
        return None

    def take_all(self) -> list[tuple[str, Generator]]:
        """All that are still open, in the order in which they began, whether the collector came or not."""
        found = self._lost
        for begun in self._begun.values():
            generator = begun.generator()
            if generator is not None and generator.ag_frame is not None:
                found.append((begun.order, begun.path, generator))
        self._begun, self._lost = {}, []
        return [(path, generator) for _, path, generator in sorted(found, key=lambda each: each[0])]


_collecting_thread: int | None = None
_is_watched = False


def _watch_the_collector() -> None:
    global _is_watched
    if not _is_watched:
        _is_watched = True
        gc.callbacks.append(_note_collection)


def _note_collection(phase: str, _: dict[str, int]) -> None:
    global _collecting_thread
    _collecting_thread = get_ident() if phase == "start" else None
