"""A trial: time that is moved, steps that are replaced, crashes, and what leaving it tells."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    CallFailed,
    DurableContext,
    DurableMCP,
    EffectOutsideStep,
    Principal,
    Signal,
    TryAgain,
    current_step,
    step,
)
from perdure.testing import Trial, crash_everywhere, quiet, trial
from tests.testing import shop
from tests.testing.shop import mcp, order, pack, weigh


async def take(item: str) -> str:
    return f"order of {item}"


async def test_days_pass_when_they_are_told_to() -> None:
    async with trial(mcp) as t:
        t.stub(order, take)
        began = t.now
        call = await t.start("deliver", {"item": "tea", "days": 30})
        await t.advance(timedelta(days=30) - timedelta(microseconds=1))
        assert (await t.calls.get(call.id)).status == "waiting"
        await t.advance(timedelta(microseconds=1))
        assert await call.result() == f"order of tea at {t.now:%H:%M}"
        assert t.now - began == timedelta(days=30)
        assert began - datetime.now(UTC) < timedelta(seconds=1)


async def test_a_client_that_waits_gets_its_answer_when_it_is_time() -> None:
    async with trial(mcp) as t:
        t.stub(order, take)
        asked = asyncio.create_task(t.client.call_tool("deliver", {"item": "tea", "days": 2}))
        await t.advance(timedelta(days=1))
        assert not asked.done()
        await t.advance(timedelta(days=1))
        assert "order of tea" in str((await asked).structured_content)


async def test_a_stub_counts_the_attempts_which_have_one_idempotency_key() -> None:
    async with trial(mcp) as t:
        times = list[datetime]()

        def fail_thrice(item: str) -> str:
            times.append(t.now)
            if len(times) < 4:
                raise ConnectionError
            return "at last"

        ordering = t.stub(order, fail_thrice)
        call = await t.start("deliver", {"item": "tea", "days": 0})
        await t.advance(timedelta(minutes=1))
        assert (await call.result()).startswith("at last")
        assert ordering.calls == [(("tea",), {})] * 4
        assert (len(ordering.idempotency_keys), len(set(ordering.idempotency_keys))) == (4, 1)
        waits = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
        assert all(0 < wait <= most for wait, most in zip(waits, (1, 2, 4), strict=True))


async def test_a_stub_ends_with_its_trial() -> None:
    async with trial(mcp) as t:
        t.stub(weigh, lambda item: 7)
        assert await (await t.start("weight", {"item": "tea"})).result() == 7
    async with trial(mcp) as t:
        assert await (await t.start("weight", {"item": "tea"})).result() == 3


async def test_only_steps_can_be_stubbed() -> None:
    no_step: Any = len
    async with trial(mcp) as t:
        with pytest.raises(TypeError, match="is no step: only what `@step` decorates"):
            t.stub(no_step, len)


async def test_a_stub_of_a_step_that_is_never_asked_needs_no_answer() -> None:
    async with trial(mcp) as t:

        async def ask(item: str) -> str | None: ...

        with pytest.raises(TypeError, match="has no reconcile"):
            t.stub(order, take, reconcile=ask)


async def test_deadlines_go_by_the_clock_of_the_trial() -> None:
    async with trial(mcp) as t:
        call = await t.start("hurry")
        await t.advance(timedelta(minutes=59))
        assert (await t.calls.get(call.id)).status == "waiting"
        await t.advance(timedelta(minutes=1))
        with pytest.raises(CallFailed, match="deadline"):
            await call.result()


async def test_a_crash_discards_what_was_not_recorded_and_the_step_runs_again() -> None:
    async with trial(mcp) as t:
        began, proceed = asyncio.Event(), asyncio.Event()

        async def slow(item: str) -> str:
            began.set()
            await proceed.wait()
            return "done"

        ordering = t.stub(order, slow)
        call = await t.start("deliver", {"item": "tea", "days": 0})
        await began.wait()
        await t.crash()
        proceed.set()
        assert (await call.result()).startswith("done")
        assert (len(ordering.calls), len(set(ordering.idempotency_keys))) == (2, 1)


async def test_who_waits_for_a_call_goes_on_waiting_through_crashes() -> None:
    async with trial(mcp) as t:
        ordering = t.stub(order, take)
        asked = asyncio.create_task(t.client.call_tool("deliver", {"item": "tea", "days": 2}))
        await t.advance(timedelta(days=1))
        await t.crash()
        await t.crash()
        await t.advance(timedelta(days=1))
        assert "order of tea" in str((await asked).structured_content)
        assert len(ordering.calls) == 1


async def test_what_time_has_passed_while_it_was_down_counts() -> None:
    async with trial(mcp) as t:
        t.stub(order, take)
        call = await t.start("deliver", {"item": "tea", "days": 3})
        await t.settle()
        await t.crash()
        await t.advance(timedelta(days=3))
        assert (await call.result()).startswith("order of tea")


async def test_steps_that_take_real_time_are_waited_for() -> None:
    async with trial(mcp) as t:
        call = await t.start("weight", {"item": "tea"})  # a plain function: it runs in a thread
        await t.settle()
        assert (await t.calls.get(call.id)).status == "completed"


async def test_a_step_that_fails_in_real_time_waits_for_the_clock_of_the_trial() -> None:
    async with trial(mcp) as t:
        attempts = list[datetime]()

        async def fail_once(item: str) -> str:
            attempts.append(t.now)
            await asyncio.sleep(0.05)
            if len(attempts) == 1:
                raise TryAgain("not today", after=timedelta(days=1))
            return "at last"

        t.stub(order, fail_once)
        call = await t.start("deliver", {"item": "tea", "days": 0})
        await t.settle()
        assert (await t.calls.get(call.id)).status == "waiting"
        await t.advance(timedelta(days=1))
        assert (await call.result()).startswith("at last")
        assert attempts[1] - attempts[0] == timedelta(days=1)


async def test_what_a_step_asks_of_the_server_dies_with_it() -> None:
    asking = DurableMCP[Any]("asking")
    go = Signal("go", str, once=True)

    @asking.tool(signals=[go])
    async def wait(ctx: DurableContext) -> str:
        return await ctx.receive(go)

    @asking.tool(rerun=True)
    async def send(call_id: str) -> str:
        await asking.calls.signal(call_id, go, current_step().call_id)
        return "sent"

    async def scenario(t: Trial) -> tuple[bool, str]:
        waiting = await t.start("wait", {})
        sending = await t.start("send", {"call_id": waiting.id})
        got = await waiting.result()
        try:
            return got == sending.id, await sending.result()
        except CallFailed as failed:
            return got == sending.id, failed.type

    # It is sent again by the next life, and only where it had arrived that is one too many.
    assert set(await crash_everywhere(asking, scenario)) == {(True, "sent"), (True, "CallEnded")}


async def test_a_step_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE", 0.05)

    async def hang(item: str) -> str:
        await asyncio.Event().wait()
        return ""

    async with trial(mcp) as t:
        t.stub(order, hang)
        call = await t.start("deliver", {"item": "tea", "days": 1})
        with pytest.raises(TimeoutError, match=f"'order' of call {call.id}"):
            await t.advance(timedelta(days=1))


async def test_a_result_that_only_time_could_bring_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE", 0.05)
    async with trial(mcp) as t:
        t.stub(order, take)
        call = await t.start("deliver", {"item": "tea", "days": 1})
        with pytest.raises(TimeoutError, match="nobody moves the clock"):
            await call.result()


async def test_settling_does_not_wait_for_others_who_go_round_and_round() -> None:
    async with trial(mcp) as t:
        stop = asyncio.Event()

        async def spin() -> None:
            while not stop.is_set():
                await asyncio.sleep(0)

        spinning = asyncio.create_task(spin())
        t.stub(order, take)
        call = await t.start("deliver", {"item": "tea", "days": 1})
        await t.advance(timedelta(days=1))
        assert (await t.calls.get(call.id)).status == "completed"
        stop.set()
        await spinning


async def test_time_does_not_go_back() -> None:
    async with trial(mcp) as t:
        with pytest.raises(ValueError, match="Time does not go back"):
            await t.advance(timedelta(seconds=-1))


async def test_calls_can_be_started_for_somebody() -> None:
    async with trial(mcp) as t:
        assert await (await t.start("who", principal=Principal("ann"))).result() == "ann"
        assert await (await t.start("who")).result() == "nobody in particular"


async def test_jobs_are_started_with_their_options() -> None:
    async with trial(mcp) as t:
        job = pack.options(key="parcel", after=timedelta(days=1))
        call = await t.start(job, {"item": "tea"}, principal=Principal("ann"))
        again = await t.start(job, {"item": "tea"}, principal=Principal("ann"))
        assert again.id == call.id
        await t.advance(timedelta(hours=23))
        assert [entry.kind for entry in await t.calls.timeline(call.id)] == ["started"]
        await t.advance(timedelta(hours=3))
        assert await call.result() == "tea in a box"


async def test_the_engine_of_the_server_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ENGINE", str(tmp_path / "surroundings.db"))
    local = DurableMCP("local", engine=tmp_path / "own.db")

    @local.tool()
    async def hello(ctx: DurableContext) -> str:
        return "hello"

    async with trial(local) as t:
        assert await (await t.start("hello")).result() == "hello"
    assert list(tmp_path.iterdir()) == []
    async with local.serving():
        assert (await local.calls.find()).calls == []
    assert (tmp_path / "own.db").exists()


async def test_a_server_that_runs_already_is_not_put_on_trial() -> None:
    local = DurableMCP("local", engine="memory:")
    async with local.serving():
        with pytest.raises(RuntimeError, match="runs on"):
            async with trial(local):
                pass


def test_one_server_stands_many_trials_in_one_loop_and_in_others() -> None:
    async def again() -> str:
        async with trial(mcp) as t:
            t.stub(order, take)
            call = await t.start("deliver", {"item": "tea", "days": 0})
            await t.advance(timedelta(0))
            return (await call.result())[:12]

    async def twice() -> list[str]:
        return [await again(), await again()]

    assert asyncio.run(twice()) + asyncio.run(twice()) == ["order of tea"] * 4


async def test_a_fixture_may_be_left_in_another_task_than_it_was_entered_in() -> None:
    opening = trial(mcp)
    t = await asyncio.create_task(opening.__aenter__())
    assert (await t.client.list_tools()).tools
    await asyncio.create_task(opening.__aexit__(None, None, None))


async def test_the_lifespan_of_the_server_is_entered() -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[str]:
        yield "open"

    local = DurableMCP("local", lifespan=lifespan)

    @local.tool()
    async def state(ctx: DurableContext) -> str:
        return ctx.state

    async with trial(local) as t:
        assert await (await t.start("state")).result() == "open"


async def test_a_body_that_does_not_replay_as_it_ran_is_told_on_leaving() -> None:
    local = DurableMCP("local", log_level="CRITICAL")

    @local.tool()
    async def dice(ctx: DurableContext) -> float:
        return random.random()

    with pytest.raises(AssertionError, match="does not replay as it ran"):
        async with trial(local) as t:
            await (await t.start("dice")).result()


async def test_that_is_told_also_of_what_ended_before_a_crash() -> None:
    local = DurableMCP("local", log_level="CRITICAL")

    @local.tool()
    async def dice(ctx: DurableContext) -> float:
        return random.random()

    async def crash_later() -> None:
        async with trial(local) as t:
            await (await t.start("dice")).result()
            await t.crash()

    with pytest.raises(AssertionError, match="does not replay as it ran"):
        await crash_later()


async def test_the_error_of_a_test_is_not_hidden_by_that() -> None:
    local = DurableMCP("local", log_level="CRITICAL")

    @local.tool()
    async def dice(ctx: DurableContext) -> float:
        return random.random()

    async def fail_later() -> None:
        async with trial(local) as t:
            await (await t.start("dice")).result()
            raise LookupError

    with pytest.raises(LookupError):
        await fail_later()


async def test_io_of_a_body_is_found_where_it_happens(tmp_path: Path) -> None:
    local = DurableMCP("local", log_level="CRITICAL")

    @local.tool()
    async def peek(ctx: DurableContext) -> str:
        return (tmp_path / "file").read_text()

    async with trial(local) as t:
        call = await t.start("peek")
        with pytest.raises(CallFailed) as failed:
            await call.result()
        assert failed.value.type == EffectOutsideStep.__name__
        assert "test_trial.py" in failed.value.message


async def test_stubs_of_methods_get_the_object_too() -> None:
    class Warehouse:
        @step
        async def count(self, item: str) -> int:
            raise NotImplementedError

    local = DurableMCP("local")
    warehouse = Warehouse()

    @local.tool()
    async def count(ctx: DurableContext) -> int:
        return await warehouse.count("tea")

    async with trial(local) as t:
        counting = t.stub(Warehouse.count, lambda self, item: 5)
        assert await (await t.start("count")).result() == 5
        assert counting.calls == [((warehouse, "tea"), {})]


async def test_stores_start_empty_and_take_what_tests_put_in() -> None:
    for _ in range(2):
        async with trial(mcp) as t:
            assert await shop.stock.get("tea") is None
            await shop.stock.set("tea", 3)
            await t.crash()
            assert await shop.stock.get("tea") == 3


async def test_a_step_run_in_no_call_has_no_key() -> None:
    async with trial(mcp) as t:
        ordering = t.stub(order, take)
        assert await order("tea") == "order of tea"
        assert (len(ordering.calls), ordering.idempotency_keys) == (1, [])
