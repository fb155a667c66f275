"""Jobs: durable functions that clients do not see, awaited by bodies and started from anywhere."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure.context import DurableContext
from perdure.engine import MACHINE
from perdure.errors import CallFailed, Conflict, PerdureError
from tests.context.house import ANN, LATER, SOON, House

Context = DurableContext[Any]


@pytest.fixture
def house() -> House:
    return House()


async def double(ctx: Context, n: int, by: int = 2) -> int:
    if n < 0:
        raise ValueError("too small")
    return n * by


async def test_a_job_awaited_in_a_body_is_a_child(house: House) -> None:
    job = house.job(double)

    async def parent(ctx: Context) -> list[int]:
        return list(await asyncio.gather(job(1), job(2, by=5)))

    async with house.serving():
        call = await house.begin(house.body(parent))
        assert await call.result() == [2, 10]
        children = (await house.calls.find(tool="double")).calls
        assert {child.parent for child in children} == {call.id}
        assert {child.callers for child in children} == {frozenset({ANN.caller})}


async def test_a_child_that_fails_says_so_in_the_body(house: House) -> None:
    job = house.job(double)

    async def parent(ctx: Context) -> list[str]:
        try:
            await job(-1)
        except CallFailed as failed:
            return [failed.type, failed.message]
        return []

    async with house.serving():
        assert await house.ask(house.body(parent)) == ["ValueError", "too small"]


async def test_a_job_started_in_a_body_outlives_it(house: House) -> None:
    async def slow(ctx: Context) -> str:
        await ctx.sleep(timedelta(seconds=0.2))
        return "done"

    job = house.job(slow)

    async def parent(ctx: Context) -> str:
        return (await job.start()).id

    async with house.serving():
        child = await house.ask(house.body(parent))
        assert await house.calls.result(child) == "done"


async def test_a_body_can_wait_for_what_it_started(house: House) -> None:
    job = house.job(double)

    async def parent(ctx: Context) -> int:
        call = await job.start(4)
        return await call.result(timeout=LATER)

    async with house.serving():
        assert await house.ask(house.body(parent)) == 8


async def test_a_job_is_started_for_who_asked(house: House) -> None:
    job = house.job(double)

    async def tool() -> str:
        return (await job.start(1)).id

    async def body(ctx: Context) -> str:
        async def step() -> str:
            return (await job.start(2)).id

        return await ctx.step(step)

    async with house.serving():
        in_a_tool = await house.ask(house.whole(tool))
        in_a_step = await house.ask(house.body(body))
        in_a_script = (await job.start(3)).id
        assert (await house.calls.get(in_a_tool)).callers == {ANN.caller}
        assert (await house.calls.get(in_a_step)).callers == {ANN.caller}
        assert (await house.calls.get(in_a_script)).callers == {MACHINE}


async def test_a_job_awaited_outside_a_body_says_what_to_do(house: House) -> None:
    with pytest.raises(PerdureError, match=r"call = await double\.start"):
        await house.job(double)(1)


async def test_a_key_is_one_call(house: House) -> None:
    job = house.job(double, key="double-{n}")
    async with house.serving():
        first, second = await job.start(1), await job.start(1)
        other = await job.options(key="another").start(1)
        assert first.id == second.id
        assert other.id != first.id
        assert (await house.calls.get(other.id)).key == "another"
        with pytest.raises(Conflict):
            await job.start(1, by=3)


async def test_a_job_can_be_told_to_begin_later(house: House) -> None:
    job = house.job(double)
    async with house.serving():
        late = await job.options(after=LATER).start(1)
        soon = await job.options(after=SOON).start(2)
        assert await soon.result() == 4
        with pytest.raises(TimeoutError):
            await late.result(timeout=SOON)
        assert not (await house.calls.get(late.id)).is_over
