"""What comes for a call from outside is applied once, however its owner is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perdure.core.commands import SetStatus
from perdure.core.events import Resumed, Signalled, Started
from perdure.effects import Effects
from perdure.engine import Function, Query, SetEntry, Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.runner import SLICE
from tests.engines.functions import ANY, body, request_for, step

SIGNALS = 300


async def test_a_signal_that_is_read_while_it_is_consumed_is_not_applied_again(tmp_path: Path) -> None:
    """The owner looks into the inbox for each signal that it is told of, and commits what it found meanwhile."""

    async def collects(effects: Effects, count: int) -> list[Any]:
        return [await effects.receive("item", ANY.decode) for _ in range(count)]

    engine = Embedded(tmp_path / "calls.sqlite")
    function = body(collects, check=False)
    async with engine.serve([function]), asyncio.timeout(60):
        for _ in range(5):
            request = request_for(function, SIGNALS, signals=(SignalSpec("item", False, {}),))
            call = (await engine.start(request)).call_id

            async def send(items: range, call: str = call) -> None:
                for item in items:
                    await engine.deliver(call, Signal("item", json.dumps(item).encode()))

            await asyncio.gather(*(send(range(n, SIGNALS, 10)) for n in range(10)))
            async for view in engine.watch(call):
                if view.is_over:
                    assert sorted(view.result) == list(range(SIGNALS))


async def test_what_comes_while_a_long_call_is_replayed_comes_after_what_came_before(tmp_path: Path) -> None:
    async def collects(effects: Effects, _: Any) -> list[Any]:
        got: list[Any] = []
        while (item := await effects.receive("item", ANY.decode)) != "stop":
            got.append(item)
            effects.tell(SetStatus(f"{len(got)} came", None))
        return got

    engine = Embedded(tmp_path / "calls.sqlite")
    function = body(collects, check=False)
    request = request_for(function, signals=(SignalSpec("item", False, {}),))
    earlier = SLICE * 16
    async with engine.serve([function]), asyncio.timeout(60):
        call = (await engine.start(request)).call_id
        items = [Signal("item", b"%d" % n) for n in range(earlier)]
        await asyncio.gather(*(engine.deliver(call, item) for item in items))
        async for view in engine.watch(call):
            if view.text == f"{earlier} came":
                break
    async with engine.serve([function]), asyncio.timeout(60):
        worker = engine.worker
        assert worker is not None
        while call not in worker.live:
            await asyncio.sleep(0)
        for n in range(earlier, earlier + SIGNALS):
            await engine.deliver(call, Signal("item", b"%d" % n))
        await engine.deliver(call, Signal("item", b'"stop"'))
        async for view in engine.watch(call):
            assert view.status != "stuck", view.error
        assert (await engine.get(call)).result == list(range(earlier + SIGNALS))


async def waits_only(effects: Effects) -> None:
    pass


async def uses_a_store(effects: Effects) -> None:
    await effects.store("things", SetEntry("", "first", b"1"))


@pytest.mark.parametrize("does", [waits_only, uses_a_store])
async def test_a_call_with_a_full_inbox_is_loaded_while_others_go_on(
    tmp_path: Path, does: Callable[[Effects], Any]
) -> None:
    got: list[Any] = []

    async def collects(effects: Effects, count: int) -> None:
        got.append(await effects.receive("item", ANY.decode))
        beside = asyncio.ensure_future(does(effects))
        while len(got) < count:
            got.append(await effects.receive("item", ANY.decode))
        await beside

    engine, function, count = Embedded(tmp_path / "calls.sqlite"), body(collects, check=False), SLICE * 8
    await with_inbox(engine, function, count)
    taken: list[int] = []

    async def looks_each_round() -> None:
        while len(got) < count:
            taken.append(len(got))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as beside, asyncio.timeout(60):
        beside.create_task(looks_each_round())
        async with engine.serve([function]):
            while len(got) < count:
                await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise([*taken, count])) <= SLICE
    assert got == list(range(count))


async def test_what_the_first_of_a_full_inbox_begins_ends_after_the_last() -> None:
    """Both a step and a time that comes."""

    async def begins(effects: Effects, count: int) -> list[Any]:
        got = [await effects.receive("item", ANY.decode)]
        looks = asyncio.ensure_future(step(effects, lambda: "looked", name="looks"))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                while True:
                    got.append(await effects.receive("item", ANY.decode))
        return [*got, await looks]

    engine, function, count = Embedded("memory:"), body(begins), SLICE * 4  # where a commit is told in the next round
    await with_inbox(engine, function, count)
    async with engine.serve([function]), asyncio.timeout(60):
        (call,) = (await engine.find(Query())).calls
        async for view in engine.watch(call.id):
            if view.is_over:
                assert view.result == [*range(count), "looked"]
        happened = [e for e in await engine.journal(call.id) if not isinstance(e, Started | Resumed)]
        assert all(isinstance(event, Signalled) for event in happened[:count])


async def with_inbox(engine: Embedded, function: Function, count: int) -> None:
    """A call began, and so many signals came for it while nobody ran it."""
    request = request_for(function, count, signals=(SignalSpec("item", False, {}),))
    async with engine.serve([function], work=False), asyncio.timeout(60):
        call = (await engine.start(request)).call_id
        await asyncio.gather(*(engine.deliver(call, Signal("item", b"%d" % n)) for n in range(count)))
