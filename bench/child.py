"""Processes that are measured: heard by the lines they say, ended by their own id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]

PATIENCE = 300.0
"""Seconds that anything may take; what takes longer is not measured."""


class Child:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._said: asyncio.Queue[str | None] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """All the time: a process whose words nobody takes would come to a stop."""
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._said.put_nowait(line.decode())
        self._said.put_nowait(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def computed(self) -> float:
        """Seconds of CPU that all its threads have used, to the nanosecond."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def resident(self) -> float:
        """What it has in memory now, in bytes."""
        return self._memory("VmRSS:")

    def most_resident(self) -> float:
        """The most that it ever had in memory, in bytes."""
        return self._memory("VmHWM:")

    def _memory(self, which: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(which))

    async def hear(self, beginning: str, patience: float = PATIENCE) -> str:
        """What follows on the next line that begins so."""
        said: list[str] = []
        async with asyncio.timeout(patience):
            while line := await self._said.get():
                if line.startswith(beginning):
                    return line.removeprefix(beginning).strip()
                said.append(line)
        raise RuntimeError(f"{beginning!r} was never said; instead:\n{''.join(said)}")

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(15):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()


def say(what: str) -> None:
    """In such a process: what `hear` hears."""
    print(what, file=sys.stderr, flush=True)


@asynccontextmanager
async def running(module: str, *arguments: str | Path, python: str | Path = sys.executable) -> AsyncGenerator[Child]:
    process = await asyncio.create_subprocess_exec(
        str(python), "-m", module, *map(str, arguments), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, cwd=ROOT
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.end()
