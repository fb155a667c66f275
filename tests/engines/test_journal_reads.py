"""What people and programs ask the storage, on each journal."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from perdure.core.call import Status
from perdure.core.codec import encode_error
from perdure.engine import Principal, Query, Signal
from perdure.engines.embedded.journal import FindCalls, MarkStuck, Offer, ReadRecord, TakeOver, View, commit
from perdure.errors import CallNotFound
from tests.engines.storage import FUNCTION, MORNING, Storage, asked

BROKEN = encode_error(ValueError("broken"))


async def find(storage: Storage, **query: Any) -> list[str]:
    return [call.id for call in (await storage.journal.read(FindCalls(Query(**query)))).calls]


async def test_an_unknown_call_is_not_found(storage: Storage) -> None:
    with pytest.raises(CallNotFound):
        await storage.journal.read(View("unknown"))
    with pytest.raises(CallNotFound):
        await storage.journal.read(ReadRecord("unknown"))


async def test_calls_are_found_newest_first_page_by_page(storage: Storage) -> None:
    ids = [(await storage.accepted(asked())).call_id for _ in range(7)]
    pages: list[list[str]] = []
    after: str | None = None
    for _ in range(4):
        page = await storage.journal.read(FindCalls(Query(limit=3, after=after)))
        pages.append([call.id for call in page.calls])
        after = page.next
        if after is None:
            break
    newest_first = list(reversed(ids))
    assert pages == [newest_first[:3], newest_first[3:6], newest_first[6:]]


async def test_a_page_that_is_just_full_is_the_last(storage: Storage) -> None:
    for _ in range(3):
        await storage.accepted(asked())
    assert (await storage.journal.read(FindCalls(Query(limit=3)))).next is None


async def test_calls_are_found_by_tool_status_caller_and_principal(storage: Storage) -> None:
    mine = await storage.held(asked(principal=Principal("ann", "https://issuer")))
    yours = await storage.held(asked(caller="you", principal=Principal("bob")))
    ours = await storage.held(asked(tool="get_alerts", key="CA", shared=True))
    await storage.accepted(asked(tool="get_alerts", key="CA", shared=True, caller="you"))
    nobodys = await storage.held(asked(caller=None))
    await storage.complete(mine)
    await storage.fail(yours, BROKEN)
    assert await find(storage, tool="get_alerts") == [ours.view.id]
    assert await find(storage, status="completed") == [mine.view.id]
    assert await find(storage, status="running") == [nobodys.view.id, ours.view.id]
    assert await find(storage, caller="me") == [ours.view.id, mine.view.id]
    assert await find(storage, caller="you") == [ours.view.id, yours.view.id]
    assert await find(storage, principal="ann") == [mine.view.id]
    assert await find(storage, caller="you", status="failed", tool="get_forecast") == [yours.view.id]
    assert len(await find(storage)) == 4


STATUSES: tuple[Status, ...] = ("running", "waiting", "stuck", "completed", "failed", "cancelled")


async def test_each_call_is_found_under_the_status_that_its_view_shows(storage: Storage) -> None:
    made: dict[Status, str] = {}
    for status in STATUSES:
        held = await storage.held()
        made[status] = held.view.id
        if status == "waiting":
            await storage.park(held)
        elif status == "stuck":
            await commit(storage.journal, MarkStuck(held.n, held.epoch, MORNING, BROKEN, False))
        elif status == "completed":
            await storage.complete(held)
        elif status == "failed":
            await storage.fail(held, BROKEN)
        elif status == "cancelled":
            await storage.cancel(held)
    for status, call_id in made.items():
        assert await find(storage, status=status) == [call_id]
        assert (await storage.view(call_id)).status == status


# --- calls that nobody runs -----------------------------------------------------------------------


async def test_a_due_call_whose_function_no_process_has_shows_as_stuck_after_a_while(storage: Storage) -> None:
    call_id = (await storage.start(own=False)).accepted.call_id
    storage.clock.now += 29
    assert (await storage.view(call_id)).status == "running"
    storage.clock.now += 1
    view = await storage.view(call_id)
    assert (view.status, await find(storage, status="stuck")) == ("stuck", [call_id])
    assert FUNCTION in (view.error or "")
    assert await find(storage, status="running") == []
    await commit(storage.journal, Offer(storage.process, frozenset({FUNCTION}), storage.clock.now))
    view = await storage.view(call_id)
    assert (view.status, view.failure, await find(storage, status="stuck")) == ("running", None, [])


async def test_a_call_that_only_waits_is_not_stuck_whoever_is_there(storage: Storage) -> None:
    held = await storage.held()
    await storage.park(held, wake_at=MORNING + 1e6)
    storage.clock.now += 1000
    assert (await storage.view(held.view.id)).status == "waiting"


@pytest.mark.parametrize("woken", ["by a signal", "by a take-over"])
async def test_a_call_that_was_woken_shows_as_stuck_only_after_a_while(storage: Storage, woken: str) -> None:
    held = await storage.held()
    if woken == "by a signal":
        await storage.park(held)
        await storage.deliver(held.view.id, Signal("decision", b"1"))
    else:
        await commit(storage.journal, TakeOver(storage.process))
    status = (await storage.view(held.view.id)).status
    assert status != "stuck"
    assert await find(storage, status="stuck") == []
    storage.clock.now += 30
    assert (await storage.view(held.view.id)).status == "stuck"
    assert await find(storage, status="stuck") == [held.view.id]


async def test_a_function_is_offered_until_its_last_process_is_gone(storage: Storage) -> None:
    processes = [storage.process, await storage.arrive()]
    for process in processes:
        await commit(storage.journal, Offer(process, frozenset({FUNCTION}), MORNING))
    call_id = (await storage.start(own=False)).accepted.call_id
    storage.clock.now += 60
    statuses: list[str] = []
    for process in processes:
        statuses.append((await storage.view(call_id)).status)
        await commit(storage.journal, TakeOver(process))
    statuses.append((await storage.view(call_id)).status)
    assert [status for status, _ in itertools.groupby(statuses)] == ["running", "stuck"]
