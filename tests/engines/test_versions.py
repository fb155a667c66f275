"""Versions of views are on one scale, whether a call is seen in memory, parked, ended, or by the next process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from perdure.effects import Effects, running_frame
from perdure.engine import CallView, Signal
from perdure.engines.embedded.engine import Embedded
from perdure.errors import Continued
from tests.engines.functions import ANY, body, request_for, step

REPORTS = 50


@pytest.fixture(params=["memory", "file"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Embedded:
    return Embedded("memory:" if request.param == "memory" else tmp_path / "calls.sqlite", bodies_in_memory=1)


async def report(up_to: int) -> None:
    """Progress is shown at once, and recorded when something else is."""
    frame = running_frame.get()
    assert frame is not None
    assert frame.report is not None
    for n in range(up_to):
        frame.report(n, up_to, None)


async def reporting(effects: Effects, word: str) -> Any:
    await step(effects, report, REPORTS)
    return await effects.receive("go", ANY.decode)


async def until(engine: Embedded, call_id: str, status: str) -> CallView:
    async with asyncio.timeout(10):
        async for view in engine.watch(call_id):
            if view.status == status:
                return view
    raise AssertionError("it ended")


async def next_after(engine: Embedded, view: CallView) -> CallView | None:
    """What a watch that begins after a view shows first; None if it shows nothing."""
    async with asyncio.timeout(10):
        return await anext(engine.watch(view.id, view.version), None)


async def out_of_memory(engine: Embedded, call_id: str) -> None:
    assert engine.worker is not None
    async with asyncio.timeout(10):
        while call_id in engine.worker.live:
            await asyncio.sleep(0.01)


FUNCTION = body(reporting)


async def go(engine: Embedded, call_id: str) -> None:
    await engine.deliver(call_id, Signal("go", json.dumps("on").encode()))


async def test_who_saw_a_call_in_memory_is_shown_its_end(engine: Embedded) -> None:
    async with engine.serve([FUNCTION]):
        call = await engine.start(request_for(FUNCTION, "a"))
        seen = await until(engine, call.call_id, "waiting")
        assert seen.version > REPORTS
        await go(engine, call.call_id)
        await until(engine, call.call_id, "completed")
        end = await next_after(engine, seen)
        assert end is not None
        assert end.status == "completed"


async def test_who_saw_a_call_in_memory_is_shown_what_becomes_of_it_once_it_was_parked(engine: Embedded) -> None:
    async with engine.serve([FUNCTION]):
        call = await engine.start(request_for(FUNCTION, "a"))
        seen = await until(engine, call.call_id, "waiting")
        other = await engine.start(request_for(FUNCTION, "b"))  # for which it makes room
        await until(engine, other.call_id, "waiting")
        await out_of_memory(engine, call.call_id)
        parked = await engine.get(call.call_id)
        assert parked.version > seen.version
        await go(engine, call.call_id)
        end = await until(engine, call.call_id, "completed")
        assert end.version > parked.version


async def test_who_saw_a_call_in_one_process_is_shown_its_end_in_the_next(tmp_path: Path) -> None:
    async with Embedded(tmp_path / "calls.sqlite").serve([FUNCTION]):
        pass
    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve([FUNCTION]):
        call = await engine.start(request_for(FUNCTION, "a"))
        seen = await until(engine, call.call_id, "waiting")
    async with engine.serve([], work=False):
        between = await engine.get(call.call_id)
        assert between.version > seen.version
    async with engine.serve([FUNCTION]):
        await go(engine, call.call_id)
        end = await until(engine, call.call_id, "completed")
        assert end.version > between.version


async def counting(effects: Effects, up_to: int) -> Any:
    for _ in range(up_to):
        await step(effects, lambda: None)
    return await effects.receive("go", ANY.decode)


async def test_who_read_of_a_call_beside_its_owner_is_shown_its_end_by_the_owner(tmp_path: Path) -> None:
    owner, reader = (Embedded(tmp_path / "calls.sqlite") for _ in range(2))
    function = body(counting)
    async with owner.serve([function]), reader.serve([], work=False):
        call = await owner.start(request_for(function, 20))
        await until(owner, call.call_id, "waiting")
        read = await reader.get(call.call_id)
        await go(owner, call.call_id)
        async with asyncio.timeout(10):
            assert [view.status async for view in owner.watch(call.call_id, read.version)][-1:] == ["completed"]


async def test_who_saw_a_call_in_memory_is_shown_that_it_was_released(tmp_path: Path) -> None:
    owner, operator = (Embedded(tmp_path / "calls.sqlite") for _ in range(2))
    async with owner.serve([FUNCTION]), operator.serve([], work=False):
        call = await owner.start(request_for(FUNCTION, "a"))
        seen = await until(owner, call.call_id, "waiting")
        await operator.release(call.call_id)
        assert (await operator.get(call.call_id)).version > seen.version


async def continuing(effects: Effects, n: int) -> int:
    await step(effects, report, REPORTS)
    await effects.receive("go", ANY.decode)
    if n == 0:
        raise Continued(b"1")
    return n


async def test_with_a_new_journal_a_call_is_newer_than_all_that_was_seen_of_it(engine: Embedded) -> None:
    function = body(continuing)
    async with engine.serve([function]):
        call = (await engine.start(request_for(function, 0))).call_id
        before = await until(engine, call, "waiting")
        assert before.version >= REPORTS
        await engine.deliver(call, Signal("go", b"1"))
        async with asyncio.timeout(10):
            while json.loads(await engine.arguments(call)) == 0:
                await asyncio.sleep(0.01)
        after = await next_after(engine, before)
        assert after is not None
        await engine.deliver(call, Signal("go", b"1"))
        async with asyncio.timeout(10):
            seen = [view async for view in engine.watch(call, before.version)]
        assert seen[-1].result == 1
