"""A process beside the tests of the storage: does one thing with a file, and says on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from perdure.engines.embedded.lockfile import LockFile
from perdure.engines.embedded.sqlite import SqliteJournal
from tests.engines.storage import StandingClock, Storage, asked, step


def say(what: Any) -> None:
    sys.stdout.write((what if isinstance(what, str) else json.dumps(what)) + "\n")
    sys.stdout.flush()


async def many(database: str, name: str) -> None:
    await _calls(database, name, 200)


async def endless(database: str, name: str) -> None:
    await _calls(database, name, 1_000_000)


async def _calls(database: str, name: str, count: int) -> None:
    """Twenty at a time, each of a few steps; a call is said once its end was acknowledged."""
    journal = SqliteJournal(database)
    await journal.open()
    storage = Storage(journal, StandingClock(), prefix=name)
    storage.process = await storage.arrive(name, os.getpid())
    numbers = iter(range(count))

    async def run() -> None:
        for number in numbers:
            held = await storage.held(asked(waiting=f"{name}-{number}"))
            steps = number % 4
            for i in range(steps):
                await storage.append(held, step(b"1", f"0/{i}"))
            await storage.complete(held)
            await storage.let_go(f"{name}-{number}", handed=True)
            say([held.view.id, steps])

    await asyncio.gather(*(run() for _ in range(20)))
    await journal.close()


def hold(path: str) -> None:
    with LockFile(Path(path)):
        say("held")
        time.sleep(60)


def fork(path: str) -> None:
    lock = LockFile(Path(path))
    with lock:
        child = os.fork()
        if child:
            say(str(child))
        time.sleep(60)


if __name__ == "__main__":
    act = {"many": many, "endless": endless, "hold": hold, "fork": fork}[sys.argv[1]]
    result = act(*sys.argv[2:])
    if result is not None:
        asyncio.run(result)
