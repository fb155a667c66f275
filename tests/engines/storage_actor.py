"""A process beside the tests of the storage: does one thing with a file, and says on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from perdure.engine import ListEntries, SetEntry
from perdure.engines.embedded.journal import Held, LookIntoStore, UseStoreOnce, commit
from perdure.engines.embedded.lockfile import LockFile
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.errors import PerdureError
from tests.engines.storage import StandingClock, Storage, asked, step


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
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


async def _load_all_code() -> None:
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = SqliteJournal(Path(folder, "calls.sqlite"))
        await elsewhere.open()
        await elsewhere.close()


def hold(path: str) -> None:
    with LockFile(Path(path)):
        say("held")
        time.sleep(60)


def fork(path: str) -> None:
    lock = LockFile(Path(path))
    with lock:
        child = os.fork()
        if child:
            say(child)
        time.sleep(60)


async def obey(database: str, durability: Any) -> None:
    """Do what each line of stdin says, a JSON list of a verb and its arguments, and say what came of it."""
    journal = SqliteJournal(database, durability=durability)
    storage = Storage(journal, StandingClock())
    calls: list[Held] = []
    given: list[asyncio.Future[Any]] = []

    async def do(verb: str, *numbers: int) -> Any:
        match verb, numbers:
            case "become", (user,):
                await _load_all_code()  # which the other user may not be able to read
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            case "limit files to", (size,):
                _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else most, most))
            case "open", ():
                await journal.open()
                storage.process = await storage.arrive()
            case "start", ():
                calls.append(await storage.held())
                return calls[-1].view.id
            case "give", (count, size):
                for _ in range(count):
                    unit = storage.unit(calls[0], step(b"1" * size, f"0/{len(given)}"))
                    given.append(asyncio.ensure_future(commit(journal, unit)))
                await asyncio.sleep(0)
            case "give with a new call among them", (count, size):
                await do("give", count, size)
                new = asyncio.ensure_future(storage.start())
                await do("give", count, size)
                return (await new).accepted.call_id
            case "how many wait", ():
                return sum(not future.done() for future in given)
            case "settle", ():
                return [type(result).__name__ for result in await asyncio.gather(*given, return_exceptions=True)]
            case "write an entry", ():
                await commit(journal, UseStoreOnce("items", SetEntry("", "a", b"1")))
            case "read the entries", ():
                return [key for key, _ in (await journal.read(LookIntoStore("items", ListEntries("")))).entries]
            case "close", ():
                await journal.close()
            case _:
                raise NotImplementedError(verb)
        return "done"

    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            say(await do(*json.loads(line)))
        except PerdureError as error:
            say([type(error).__name__, str(error)])


if __name__ == "__main__":
    act = {"many": many, "endless": endless, "obey": obey, "hold": hold, "fork": fork}[sys.argv[1]]
    result = act(*sys.argv[2:])
    if result is not None:
        asyncio.run(result)
