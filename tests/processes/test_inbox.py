"""What comes for a call from outside is applied once, however its owner is told of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from perdure.core.commands import SetStatus
from perdure.effects import Effects
from perdure.engine import Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.runner import SLICE
from tests.engines.functions import ANY, body, request_for

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
