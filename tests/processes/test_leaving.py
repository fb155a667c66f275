"""A process that goes in good order: what its steps get, and what becomes of its calls."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from perdure.effects import Effects
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import body, request_for, step
from tests.processes.company import Company

GRACE = 2.0


async def test_a_step_that_is_quick_enough_is_recorded_and_the_rest_of_its_call_runs_elsewhere(
    company: Company,
) -> None:
    leaver = await company.start(grace=GRACE)
    call = await leaver.ask("start", function="lingers", argument=0.1)
    await leaver.says("began", call=call)
    await leaver.leave()
    assert [effect.what for effect in company.effects] == ["began", "ended"]
    heir = await company.start()
    end = await heir.ask("end", call=call)
    assert end["status"] == "completed"
    (lingered,), (after,) = company.began(call, "lingers"), company.began(call, "next")
    assert (lingered.pid, after.pid) == (leaver.pid, heir.pid)
    assert end["result"] == [lingered.token, after.token]


async def test_a_step_that_takes_longer_runs_again_elsewhere_with_its_idempotency_key(company: Company) -> None:
    leaver = await company.start(grace=0.1)
    call = await leaver.ask("start", function="lingers", argument=0.5)
    await leaver.says("began", call=call)
    await leaver.leave()
    heir = await company.start()
    await heir.says("began", call=call, name="lingers")
    heir.order("open", gate="leaving")  # it leaves with grace enough
    await heir.says("has left")
    first, again = company.began(call, "lingers")
    assert (first.pid, again.pid) == (leaver.pid, heir.pid)
    assert again.key == first.key
    assert [effect.token for effect in company.effects if effect.what == "ended"] == [again.token]


@pytest.mark.parametrize("function", ["careful", "whole_lingers"])
async def test_what_may_not_run_twice_ends_as_an_unknown_outcome(company: Company, function: str) -> None:
    leaver = await company.start(grace=0.1)
    call = await leaver.ask("start", function=function, argument=30)
    await leaver.says("began", call=call)
    await leaver.leave()
    heir = await company.start()
    end = await heir.ask("end", call=call)
    assert end["status"] == "failed"
    assert end["error"].startswith("OutcomeUnknown")
    assert len(company.effects) == 1


async def test_siblings_go_on_with_its_calls_while_the_lifespan_of_the_leaver_still_ends(company: Company) -> None:
    leaver = await company.start(grace=0.1, slow_to_leave=True)
    sibling = await company.start()
    calls = [await leaver.ask("start", function="watched", argument="gate") for _ in range(10)]
    for call in calls:
        await leaver.says("began", call=call)
    await sibling.ask("open", gate="gate")
    leaver.order("leave")
    await leaver.says("work is over")
    over = time.monotonic()
    for call in calls:
        assert (await sibling.ask("end", call=call))["status"] == "completed"
    print(f"\na sibling has ended 10 released calls {(time.monotonic() - over) * 1000:.1f} ms after the work was over")
    assert not any(said["said"] == "has left" for said in leaver.said)
    await leaver.ask("open", gate="lifespan")
    await leaver.says("has left")


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_serve_that_is_cancelled_gives_running_steps_their_grace(tmp_path: Path, how: str) -> None:
    """By asyncio, once; or by a scope of anyio, which cancels again and again until the task has left it."""
    begun, going = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def slow() -> str:
        begun.set()
        await going.wait()
        await asyncio.sleep(0.1)
        done.append("slow")
        return "done"

    async def slowly(effects: Effects, _: Any) -> str:
        return await step(effects, slow)

    function = body(slowly)
    calls: list[str] = []
    scope = anyio.CancelScope()

    async def serve() -> None:
        with scope:
            engine = Embedded(tmp_path / "calls.sqlite", grace=timedelta(seconds=GRACE))
            async with engine.serve([function]):
                calls.append((await engine.start(request_for(function))).call_id)
                await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await begun.wait()
    going.set()
    serving.cancel() if how == "task" else scope.cancel()
    await asyncio.wait({serving})
    assert done == ["slow"]

    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve([function]), asyncio.timeout(10):
        async for view in engine.watch(calls[0]):
            if view.is_over:
                assert view.result == "done"
    assert done == ["slow"], "the step was recorded before the process left"
