"""A process that runs the whole corpus on one file, and kills itself where it is told to.

`python -m tests.crash.actor FOLDER POINT SIDE NTH LEAVE`: at the nth time that it passes there. With LEAVE above zero
it leaves in good order after so many commits of events; else when all is over, with status 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.engine import Query
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import Journal, ReadRecord, Record
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.engines.embedded.writer import Probe
from perdure.errors import PerdureError
from tests.crash.corpus import SCENARIOS, Scenario
from tests.crash.outside import InFile, outside

GLANCE = 0.02
"""Seconds between two looks at what became of a call."""


class Watched(Embedded):
    """With a probe at its writes, and few bodies in memory."""

    def __init__(self, path: Path, probe: Probe) -> None:
        super().__init__(path, bodies_in_memory=8)
        self._probe = probe
        self.storage: SqliteJournal | None = None

    def _journal(self) -> Journal:
        assert self.path is not None
        self.storage = SqliteJournal(self.path, probe=self._probe)
        return self.storage

    async def record(self, call_id: str) -> Record:
        assert self.storage is not None
        return await self.storage.read(ReadRecord(call_id))


async def drive(engine: Watched, scenario: Scenario) -> None:
    call_id = (await engine.start(scenario.request())).call_id
    for action in scenario.actions:
        record = await engine.record(call_id)
        while not (action.when(record) or record.view.is_over):
            await asyncio.sleep(GLANCE)
            record = await engine.record(call_id)
        with suppress(PerdureError):  # it was done before, or the call has ended
            await action.do(engine, record)
    while not (await engine.record(call_id)).view.is_over:
        await asyncio.sleep(GLANCE)


async def tend(engine: Watched) -> None:
    """An operator who knows that it is not the steps that kill the process."""
    while True:
        for view in (await engine.find(Query(status="stuck"))).calls:
            if "its process died" in (view.error or ""):
                await engine.retry(view.id)
        await asyncio.sleep(GLANCE)


async def all_over(engine: Watched) -> None:
    tending = asyncio.ensure_future(tend(engine))
    await asyncio.gather(*(drive(engine, scenario) for scenario in SCENARIOS))
    while not all(view.is_over for view in (await engine.find(Query(limit=1000))).calls):
        await asyncio.sleep(GLANCE)
    tending.cancel()


async def main(folder: Path, point: str, side: str, nth: int, leave: int) -> None:
    outside.memory = InFile(folder / "effects")
    outside.unit = 0.01
    loop, enough = asyncio.get_running_loop(), asyncio.Event()
    passed = appended = 0

    def probe(name: str, at: str) -> None:
        nonlocal passed, appended
        if (name, at) == (point, side):
            passed += 1
            if passed == nth:
                os.kill(os.getpid(), signal.SIGKILL)
        if leave and (name, at) == ("Append", "after"):
            appended += 1
            if appended == leave:
                loop.call_soon_threadsafe(enough.set)

    engine = Watched(folder / "calls.sqlite", probe)
    functions = {function.name: function for scenario in SCENARIOS for function in scenario.functions}
    async with engine.serve([*functions.values()]):
        working = asyncio.ensure_future(all_over(engine))
        waiting: set[asyncio.Future[Any]] = {working, asyncio.ensure_future(enough.wait())}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        else:
            working.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
