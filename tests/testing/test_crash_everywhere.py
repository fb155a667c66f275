"""One scenario with a crash before and after each of the journal's writes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import DurableContext, DurableMCP, step
from perdure.testing import Trial, crash_everywhere
from tests.testing.shop import Receipt, charge, go, mcp, order, stock


async def buying(t: Trial) -> tuple[str, int | None, int]:
    """What the customer gets, what is left in stock, and how often the bank paid."""
    await stock.set("tea", 3)
    charging = t.stub(charge, lambda amount: Receipt(number="receipt 1"))
    call = await t.start("buy", {"item": "tea"})
    await t.advance(timedelta(hours=1))
    await t.calls.signal(call.id, go, True)
    await t.advance(timedelta(hours=1))
    return await call.result(), await stock.get("tea"), len(charging.calls)


async def test_one_thing_is_taken_paid_once_and_packed_wherever_it_crashes() -> None:
    results = await crash_everywhere(mcp, buying)
    assert set(results) == {("tea in a box under receipt 1", 2, 1)}
    assert len(results) > 20


async def test_a_client_gets_its_answer_although_the_server_crashes_while_it_waits() -> None:
    async def asking(t: Trial) -> str:
        async def take(item: str) -> str:
            return "one order"

        t.stub(order, take)
        asked = asyncio.create_task(t.client.call_tool("deliver", {"item": "tea", "days": 1}))
        await t.advance(timedelta(days=2))
        return str((await asked).structured_content)[:20]

    assert set(await crash_everywhere(mcp, asking)) == {"{'result': 'one orde"}


async def test_a_scenario_may_crash_its_server_too() -> None:
    async def crashing(t: Trial) -> str:
        t.stub(order, lambda item: "one order")
        call = await t.start("deliver", {"item": "tea", "days": 1})
        await t.settle()
        await t.crash()
        await t.advance(timedelta(days=2))
        return (await call.result())[:9]

    assert set(await crash_everywhere(mcp, crashing)) == {"one order"}


async def test_an_error_says_where_the_crash_was() -> None:
    local = DurableMCP("local", log_level="CRITICAL")
    paid = list[int]()

    @step
    async def pay_without_a_key(amount: int) -> None:
        paid.append(amount)

    @local.tool()
    async def pay(ctx: DurableContext) -> None:
        await pay_without_a_key(5)

    async def paying(t: Trial) -> None:
        paid.clear()
        call = await t.start("pay")
        await t.settle()
        await call.result()
        assert paid == [5]

    with pytest.raises(AssertionError) as failed:
        await crash_everywhere(local, paying)
    (note,) = failed.value.__notes__
    assert "a crash before write 2, Append of StepReturned 'pay_without_a_key'" in note


async def test_an_error_without_a_crash_is_just_that() -> None:
    async def failing(t: Trial) -> None:
        raise LookupError

    with pytest.raises(LookupError) as failed:
        await crash_everywhere(mcp, failing)
    assert not hasattr(failed.value, "__notes__")


async def test_each_write_about_a_call_has_its_crash_on_both_sides() -> None:
    local = DurableMCP("local", log_level="CRITICAL")
    done = list[str]()

    @local.tool()
    async def two_steps(ctx: DurableContext) -> int:
        return await ctx.step(first) + await ctx.step(second)

    async def first() -> int:
        done.append("first")
        return 1

    async def second() -> int:
        done.append("second")
        return 2

    counts = list[tuple[int, int]]()

    async def scenario(t: Trial) -> int:
        done.clear()
        call = await t.start("two_steps")
        await t.settle()
        counts.append((done.count("first"), done.count("second")))
        return await call.result()

    # StartCall, the outcome of the first step, that of the second with the end: each lost or kept.
    assert await crash_everywhere(local, scenario) == [3] * len(counts)
    assert counts[0] == (1, 1)
    assert sorted(counts[1:]) == [(1, 1)] * (len(counts) - 3) + [(1, 2), (2, 1)]


async def test_all_runs_begin_at_the_same_time() -> None:
    times = set[str]()

    async def scenario(t: Trial) -> None:
        times.add(t.now.isoformat())
        await (await t.start("weight", {"item": "tea"})).result()

    await crash_everywhere(mcp, scenario)
    assert len(times) == 1


async def test_what_writes_nothing_runs_once() -> None:
    async def looking(t: Trial) -> int:
        await t.client.list_tools()
        return len((await t.calls.find()).calls)

    assert await crash_everywhere(mcp, looking) == [0]
