"""Group commit: what is queued together is one transaction, and each unit of it is whole or not at all."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from perdure.core.events import Completed
from perdure.engine import GetEntry, SetEntry, StoreReply
from perdure.engines.embedded.journal import AppendStore, Held, LetGo, UseStoreOnce, Write, commit
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.errors import StorageError
from tests.engines.storage import MORNING, StandingClock, Storage, step

LARGE = b'"' + b"x" * (16 * 1024 * 1024) + b'"'


@contextmanager
def held_up(database: Path) -> Generator[None]:
    """Nobody writes meanwhile: what is queued in here becomes one batch, or two if the writer took the first."""
    lock = os.open(f"{database}-lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


async def in_one_batch(storage: Storage, database: Path, *writes: Write[Any]) -> list[Any]:
    with held_up(database):
        results = asyncio.gather(*(commit(storage.journal, write) for write in writes), return_exceptions=True)
        await asyncio.sleep(0)  # all are given
    return await asyncio.wait_for(results, 30)


def half_bad(storage: Storage, held: Held) -> Write[Any]:
    """Fails after its first event was written."""
    return storage.unit(held, step(b"1", "0/1"), step(LARGE, "0/2"))


def bad_at_once(storage: Storage, held: Held) -> Write[Any]:
    """Fails before anything was written."""
    return storage.unit(held, step(LARGE, "0/1"))


@pytest.mark.parametrize("bad", [half_bad, bad_at_once])
@pytest.mark.parametrize("position", [0, 1, 4, 7])
async def test_one_bad_unit_fails_alone(file_storage: Storage, database: Path, bad: Any, position: int) -> None:
    storage = file_storage
    calls = [await storage.held() for _ in range(8)]
    writes = [storage.unit(held, step(), status="completed", end=Completed(b"1", MORNING)) for held in calls]
    writes[position] = bad(storage, calls[position])
    results = await in_one_batch(storage, database, storage.unit(calls[0], progress=None), *writes)
    assert [type(result).__name__ for result in results[1:]] == [
        "PayloadTooLarge" if i == position else "tuple" for i in range(8)
    ]
    for i, held in enumerate(calls):
        record = await storage.record(held.view.id)
        expected = ("running", 0) if i == position else ("completed", 1)
        assert (record.view.status, len(record.events[1:]) - (i != position)) == expected
    good = await commit(storage.journal, storage.unit(calls[position], step()))
    assert good == ()


async def test_two_bad_units_of_the_same_call_leave_the_good_ones_around_them(
    file_storage: Storage, database: Path
) -> None:
    storage = file_storage
    held = await storage.held()
    results = await in_one_batch(
        storage,
        database,
        storage.unit(held, step(b"1", "0/1")),
        half_bad(storage, held),
        storage.unit(held, step(b"2", "0/2")),
        half_bad(storage, held),
        storage.unit(held, step(b"3", "0/3")),
    )
    assert [type(result).__name__ for result in results] == ["tuple", "PayloadTooLarge"] * 2 + ["tuple"]
    events = (await storage.record(held.view.id)).events[1:]
    assert events == (step(b"1", "0/1"), step(b"2", "0/2"), step(b"3", "0/3"))


async def test_a_store_write_that_fails_with_its_event_is_taken_back(file_storage: Storage, database: Path) -> None:
    storage = file_storage
    held = await storage.held()
    # Not UTF-8, so that the reply of the second unit cannot become an event after its write was done.
    await commit(storage.journal, UseStoreOnce("items", SetEntry("", "a", b"\xff")))
    place: dict[str, Any] = {
        "n": held.n,
        "epoch": held.epoch,
        "at": MORNING,
        "name": "get",
        "digest": "d",
        "store": "items",
    }
    results = await in_one_batch(
        storage,
        database,
        AppendStore(key="0/1", operation=SetEntry("", "b", b"1"), **place),
        AppendStore(key="0/2", operation=GetEntry("", "a"), **place),
        AppendStore(key="0/3", operation=SetEntry("", "c", b"1"), **place),
    )
    assert [type(result) for result in results] == [StoreReply, UnicodeDecodeError, StoreReply]
    keys = [getattr(event, "key", None) for event in (await storage.record(held.view.id)).events[1:]]
    assert keys == ["0/1", "0/3"]


async def test_units_take_effect_in_the_order_in_which_they_were_given(file_storage: Storage, database: Path) -> None:
    storage = file_storage
    held = await storage.held()
    units = [storage.unit(held, step(b"1", f"0/{i}")) for i in range(1500)]
    await in_one_batch(storage, database, *units)
    events = (await storage.record(held.view.id)).events[1:]
    assert [getattr(event, "key", "") for event in events] == [f"0/{i}" for i in range(1500)]


async def test_a_failing_completion_stops_neither_the_others_nor_the_writer(
    file_storage: Storage, database: Path
) -> None:
    storage = file_storage
    held = await storage.held()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def fail(_result: Any, _error: BaseException | None) -> None:
        raise RuntimeError("a defect in the engine")

    with held_up(database):
        storage.journal.write(storage.unit(held, step(b"1", "0/1")), fail)
        after = asyncio.ensure_future(commit(storage.journal, storage.unit(held, step(b"2", "0/2"))))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(after, 10) == ()
    assert await storage.append(held, step(b"3", "0/3")) == ()
    assert [str(context["exception"]) for context in reported] == ["a defect in the engine"]
    assert len((await storage.record(held.view.id)).events) == 4


async def test_what_has_time_goes_after_a_moment_of_its_own(database: Path) -> None:
    let_go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def probe(name: str, when: str) -> None:
        if (name, when) == ("LetGo", "after"):
            loop.call_soon_threadsafe(let_go.set)

    journal = SqliteJournal(database, probe=probe)
    await journal.open()
    journal.write_soon(LetGo("first", True))
    await asyncio.wait_for(let_go.wait(), 10)
    await journal.close()


async def test_closing_commits_what_was_given(database: Path) -> None:
    journal = SqliteJournal(database)
    await journal.open()
    storage = Storage(journal, StandingClock())
    storage.process = await storage.arrive()
    held = await storage.held()
    committed: list[Any] = []
    for i in range(50):
        journal.write(storage.unit(held, step(b"1", f"0/{i}")), lambda result, error: committed.append((result, error)))
    await journal.close()
    assert committed == [((), None)] * 50
    with pytest.raises(StorageError):
        await storage.append(held, step())
    with pytest.raises(StorageError):
        await storage.view(held.view.id)
    await journal.open()
    assert len((await storage.record(held.view.id)).events) == 51
    await journal.close()


async def test_a_journal_knows_when_somebody_else_has_written(file_storage: Storage, database: Path) -> None:
    storage = file_storage
    other = SqliteJournal(database)
    await other.open()
    await storage.held()
    assert not storage.journal.changed_elsewhere
    held = await Storage(other, StandingClock(), storage.process, prefix="other").held()
    await knows_of_a_change(storage)
    assert not storage.journal.changed_elsewhere
    await Storage(other, StandingClock()).append(held, step())
    await storage.view(held.view.id)
    await storage.arrive()
    await knows_of_a_change(storage)  # a commit of its own in between hides nothing
    await other.close()


async def knows_of_a_change(storage: Storage) -> None:
    """Whoever asks while the writer is busy is told the next time."""
    async with asyncio.timeout(10):
        while not storage.journal.changed_elsewhere:
            await asyncio.sleep(0.001)


async def test_the_loop_turns_while_a_large_batch_is_told_and_the_order_stays(
    file_storage: Storage, database: Path
) -> None:
    writes: list[Write[Any]] = [UseStoreOnce("items", GetEntry("", str(n))) for n in range(40)]
    told: list[int] = []
    seen: set[int] = set()
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.add(len(told))
        if len(told) < len(writes):
            loop.call_later(0, look)

    def make_body_run(n: int) -> None:
        until = perf_counter() + 0.001
        while perf_counter() < until:
            pass
        told.append(n)

    with held_up(database):
        for n, write in enumerate(writes):
            file_storage.journal.write(write, lambda _result, _error, n=n: make_body_run(n))
        await asyncio.sleep(0)  # all are given
    look()
    await file_storage.journal.close()
    assert told == list(range(40))
    assert len(seen) > 3, seen
