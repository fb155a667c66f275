"""Every kind of write passes its named crash point, before it is performed and after its commit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.engines.embedded import journal as contract
from perdure.engines.embedded.journal import Append, Journal, LetGo, Write, commit
from perdure.engines.embedded.ledger import READS, WRITES, crash_points
from perdure.engines.embedded.memory import MemoryJournal
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.engines.embedded.writer import Probe
from tests.engines.storage import StandingClock, Storage, asked, step

Open = Callable[[Probe | None], Journal]


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Both ask for a probe; the file is opened again under a new journal, memory under its own."""
    if request.param == "file":
        return lambda probe: SqliteJournal(tmp_path / "calls.sqlite", probe=probe, clock=StandingClock())
    memory = MemoryJournal(clock=StandingClock())

    def same(probe: Probe | None) -> MemoryJournal:
        memory.probe = probe
        return memory

    return same


class ProcessDied(Exception):
    pass


def test_every_write_and_read_of_the_contract_can_be_performed() -> None:
    def kinds_of(root: type[Any]) -> set[type[Any]]:
        classes = [member for _, member in inspect.getmembers(contract, inspect.isclass)]
        return {member for member in classes if issubclass(member, root) and member is not root}

    assert kinds_of(contract.Write) == set(WRITES)
    assert kinds_of(contract.Read) == set(READS)
    assert crash_points() == {write.__name__ for write in WRITES}


async def test_the_probe_is_called_before_each_write_and_after_its_commit(make: Open) -> None:
    passed: list[tuple[str, str]] = []
    journal = make(lambda name, when: passed.append((name, when)))
    await journal.open()
    storage = Storage(journal, StandingClock())
    storage.process = await storage.arrive()
    held = await storage.held(asked(waiting="first"))
    await storage.append(held, step())
    journal.write_soon(LetGo("first", True))
    await journal.close()
    names = ("Register", "StartCall", "Append", "LetGo")
    assert passed == [(name, when) for name in names for when in ("before", "after")]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_that_dies_at_a_crash_point_leaves_what_was_committed_and_tells_nobody(
    make: Open, when: str
) -> None:
    died = asyncio.Event()
    loop = asyncio.get_running_loop()

    def probe(name: str, at: str) -> None:
        if (name, at) == ("Append", when):
            loop.call_soon_threadsafe(died.set)
            raise ProcessDied

    journal = make(probe)
    await journal.open()
    storage = Storage(journal, StandingClock())
    storage.process = await storage.arrive()
    held = await storage.held()
    told: list[Write[Any]] = []
    for write in (storage.unit(held, step(b"1", "0/1")), storage.unit(held, step(b"2", "0/2"))):
        journal.write(write, lambda _result, _error, write=write: told.append(write))
    await asyncio.wait_for(died.wait(), 10)
    await journal.close()

    again = make(None)
    await again.open()
    storage = Storage(again, StandingClock())
    events = (await storage.record(held.view.id)).events[1:]
    assert events in ((), (step(b"1", "0/1"),), (step(b"1", "0/1"), step(b"2", "0/2")))
    assert bool(events) is (when == "after")
    assert told == []
    await commit(again, Append(n=held.n, epoch=held.epoch, at=0.0, events=(step(),), status="running"))
    await again.close()
    assert told == []
