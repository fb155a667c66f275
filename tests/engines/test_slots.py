"""How many steps run at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from perdure.effects import Effects
from perdure.engine import Cancel
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import body, request_for, step


async def test_no_more_steps_run_at_once_than_there_are_slots_and_a_cancelled_one_leaves_its_turn_to_others(
    tmp_path: Path,
) -> None:
    begun: asyncio.Queue[int] = asyncio.Queue()
    let_go = asyncio.Event()
    most = running = 0

    async def hold(n: int) -> int:
        nonlocal most, running
        begun.put_nowait(n)
        running += 1
        most = max(most, running)
        try:
            await let_go.wait()
        finally:
            running -= 1
        return n

    async def holds(effects: Effects, n: int) -> int:
        return await step(effects, hold, n)

    function = body(holds, check=False)
    engine = Embedded(tmp_path / "calls.sqlite", concurrent_steps=2)
    async with engine.serve((function,)), asyncio.timeout(20):
        calls = [(await engine.start(request_for(function, n))).call_id for n in range(6)]
        first = [await begun.get(), await begun.get()]
        for cancelled in (calls[0], calls[5]):  # one that runs, one that waits for its turn
            await engine.deliver(cancelled, Cancel("not needed"))
            async for view in engine.watch(cancelled):
                assert view.is_over or view.status == "running"
        third = await begun.get()
        let_go.set()
        for call_id in calls[1:5]:
            async for view in engine.watch(call_id):
                assert view.status in ("running", "completed")
    assert most == 2
    assert [*first, third, begun.get_nowait(), begun.get_nowait()] == [0, 1, 2, 3, 4]
    assert begun.empty()
