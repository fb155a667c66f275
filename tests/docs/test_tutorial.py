"""docs/tutorial.md, run as it is written: its files, its commands, and what they are said to print."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
PORT = "8000"
BOUND = 60.0
"""Seconds until something that is said to happen has happened."""

FENCE = re.compile(r"^```(?P<kind>python|console) ?(?P<file>\S*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LOOKING = ("cat ", "perdure calls\n")
"""Commands with which a reader looks until something is there."""


# --- what the page says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    line: str
    output: str
    """`…` stands for anything."""

    def fits(self, output: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in evened(self.output).split("…"))
        return re.fullmatch(pattern, evened(output), re.DOTALL) is not None


def evened(output: str) -> str:
    """How wide the columns of a table are depends on what is in them."""
    return "\n".join(" ".join(line.split()) for line in output.rstrip().split("\n"))


@dataclass(frozen=True)
class Section:
    title: str
    text: str

    def files(self) -> dict[str, str]:
        return {found["file"]: found["text"] for found in FENCE.finditer(self.text) if found["kind"] == "python"}

    def commands(self) -> list[Command]:
        transcripts = [found["text"] for found in FENCE.finditer(self.text) if found["kind"] == "console"]
        parts = "".join(transcripts).removeprefix("$ ").split("\n$ ")
        return [Command(line, output.rstrip("\n")) for line, _, output in (part.partition("\n") for part in parts)]


def sections() -> list[Section]:
    parts = re.split(r"^## (?=\d)", PAGE, flags=re.MULTILINE)[1:]
    return [Section(*part.split("\n", 1)) for part in parts]


# --- a reader -------------------------------------------------------------------------------------


class Reader:
    """Somebody who types commands into a shell, and waits for what the page says."""

    def __init__(self, shell: subprocess.Popen[str], folder: Path, port: int) -> None:
        self._shell = shell
        self._folder = folder
        self._port = port

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text.replace(PORT, str(self._port)))

    def follow(self, command: Command) -> None:
        seen = ""

        def done() -> bool:
            nonlocal seen
            seen = self._type(command.line)
            return command.fits(seen)

        if f"{command.line}\n".startswith(LOOKING):
            assert wait_until(done), f"$ {command.line}\n{seen}\n{self._logs()}"
        else:
            assert done(), f"$ {command.line}\n{seen}\n{self._logs()}"
        if command.line.startswith("python trips.py"):
            assert wait_until(self._listens), f"$ {command.line}\n{self._logs()}"
        if command.line.startswith("kill ") and command.line.endswith(" $server"):
            assert wait_until(lambda: not self._listens()), f"$ {command.line}\n{self._logs()}"

    def _type(self, line: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{line.replace(PORT, str(self._port))}\necho; echo +done+\n")
        self._shell.stdin.flush()
        output = ""
        while not output.endswith("\n+done+\n"):
            read = self._shell.stdout.readline()
            assert read, f"the shell ended: {output}"
            output += read
        return output.removesuffix("\n+done+\n")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in self._folder.glob("*.log"))


@contextmanager
def reader(folder: Path) -> Generator[Reader]:
    """In a folder of its own, whose processes end with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "COLUMNS": "100",
        "NO_PROXY": "127.0.0.1",
    }
    with (folder / "shell.log").open("w") as errors, held_port() as port:
        shell = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=environment,
        )
        someone = Reader(shell, folder, port)
        try:
            yield someone
        finally:
            assert shell.stdin is not None
            # Its own background jobs, those that were not ended by the page.
            shell.stdin.write("kill -9 $(jobs -p)\n")
            shell.communicate(timeout=BOUND)


@contextmanager
def held_port() -> Generator[int]:
    """A free port, which on Linux is given to nobody else between two lives of a server on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        if sys.platform != "linux":
            held.close()  # it would keep the port from the server too
        yield port


def wait_until(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + BOUND
    while not (met := condition()) and time.monotonic() < give_up:
        time.sleep(0.05)
    return met


# --- the tests ------------------------------------------------------------------------------------


def test_the_page_has_five_steps_each_with_a_server_and_commands() -> None:
    assert len(sections()) == 5
    assert all("trips.py" in section.files() and section.commands() for section in sections())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5), ids=[section.title for section in sections()])
def test_what_the_page_says_happens(number: int, tmp_path: Path) -> None:
    with reader(tmp_path) as someone:
        for section in sections()[: number + 1]:
            for name, text in section.files().items():
                someone.write(name, text)
        for command in sections()[number].commands():
            someone.follow(command)


def test_the_import_is_all_that_changes_in_the_second_step() -> None:
    plain, durable = (section.files()["trips.py"] for section in sections()[:2])
    renamed = plain.replace("from mcp.server.mcpserver import MCPServer", "from perdure import DurableMCP")
    assert renamed.replace("MCPServer(", "DurableMCP(") == durable
