"""`ctx.continue_as`: a call that goes on for ever without a journal that grows for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from perdure import CallFailed, DurableContext, DurableMCP, Signal, step
from perdure.errors import PerdureError
from perdure.testing import trial

word = Signal("word", str)


def watching() -> DurableMCP[Any]:
    mcp = DurableMCP("watching")

    @step
    async def look(place: str, n: int) -> int:
        return n + 1

    @mcp.tool()
    async def watch(place: str, ctx: DurableContext, n: int = 0) -> str:
        """Once a day, for a hundred days."""
        await ctx.sleep(timedelta(days=1))
        seen = await look(place, n)
        await ctx.set_status(f"day {seen}")
        if seen < 100:
            await ctx.continue_as(n=seen)
        return f"{place}: {seen}"

    @mcp.job(signals=[word])
    async def listen(ctx: DurableContext, heard: list[str]) -> list[str]:
        heard = [*heard, await ctx.receive(word)]
        if len(heard) < 3:
            await ctx.continue_as(heard=heard)
        return heard

    @mcp.tool()
    async def wrongly(how: str, ctx: DurableContext) -> str:
        try:
            await ctx.continue_as(**({"whom": 1} if how == "unknown" else {"how": {"no": "text"}}))
        except (TypeError, ValidationError) as error:
            return type(error).__name__

    return mcp


async def test_a_tool_goes_on_for_a_hundred_days_with_the_journal_of_one() -> None:
    mcp = watching()
    async with trial(mcp) as t:
        call = await t.start("watch", {"place": "Berlin"})
        await t.advance(timedelta(days=50))
        view = await t.calls.get(call.id)
        assert (view.text, view.is_over) == ("day 50", False)
        assert len(await mcp.engine.journal(call.id)) < 4
        await t.crash()
        await t.advance(timedelta(days=50))
        assert await call.result() == "Berlin: 100"


async def test_a_job_goes_on_with_the_signals_that_it_did_not_receive() -> None:
    async with trial(watching()) as t:
        call = await t.start("listen", {"heard": []})
        for said in ("one", "two", "three"):
            await t.calls.signal(call.id, word, said)
        assert await call.result() == ["one", "two", "three"]


@pytest.mark.parametrize(("how", "error"), [("unknown", "TypeError"), ("unfit", "ValidationError")])
async def test_arguments_that_the_function_does_not_take_are_refused_where_they_are_given(how: str, error: str) -> None:
    async with trial(watching()) as t:
        assert await (await t.start("wrongly", {"how": how})).result() == error


async def test_a_step_cannot_make_its_call_continue() -> None:
    mcp = DurableMCP("steps")

    @mcp.tool()
    async def outside(ctx: DurableContext) -> None:
        async def leak() -> None:
            await ctx.continue_as()

        await ctx.step(leak)

    async with trial(mcp) as t:
        with pytest.raises(CallFailed, match="outside its body") as caught:
            await (await t.start("outside")).result()
        assert caught.value.type == PerdureError.__name__
