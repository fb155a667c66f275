"""Child processes: started, waited for, and each ended by its own id."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from perdure.cli.problem import Problem

ADDRESS = re.compile(r"(?:Listening on )?(http://127\.0\.0\.1:\d+\S*)")
"""A whole line: what a server has asked others, before it listens, may be in its log."""


@dataclass
class Child:
    """A Python process that says where it listens."""

    process: Process
    address: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    """Its last lines, for when it fails."""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def kill(self) -> int:
        """As `kill -9` does. Returns the exit code: minus the signal that ended it."""
        if self.process.returncode is None:
            self.process.kill()
        return await self.process.wait()

    async def read_address(self) -> None:
        while (line := await self._line()) is not None:
            if found := ADDRESS.fullmatch(line):
                self.address = found[1]
                return
        raise Problem("A process ended before it listened:\n" + "\n".join(self.said))

    async def read_on(self) -> None:
        """A pipe that nobody reads would stop it in the end."""
        while await self._line() is not None:
            pass

    async def _line(self) -> str | None:
        assert self.process.stdout is not None
        raw = await self.process.stdout.readline()
        if not raw:
            return None
        line = raw.decode(errors="replace").rstrip()
        self.said.append(line)
        return line


@asynccontextmanager
async def listening(*command: str, settings: Mapping[str, str] | None = None) -> AsyncGenerator[Child]:
    """`python -m` this command, from when it says its address; it is killed at the latest when this is left.

    `settings` are added to its environment.
    """
    environment = dict(os.environ) | dict(settings or {})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment
    )
    child = Child(process)
    try:
        await child.read_address()
        reading = asyncio.create_task(child.read_on())
        try:
            yield child
        finally:
            reading.cancel()
    finally:
        await child.kill()
