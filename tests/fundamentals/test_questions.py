"""Questions, from the smallest form on. Read from top to bottom; each test adds one thing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP

both_eras = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])


class Approval(BaseModel):
    approved: bool


class Shop:
    """Its one tool asks before it sells."""

    def __init__(self, engine: str | Path = "memory:") -> None:
        self.mcp = DurableMCP[Any]("shop", engine=engine)
        self.mcp.tool()(self.sell)
        self.sold: list[str] = []

    async def sell(self, what: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Sell the {what}?", Approval)
        if said.action != "accept" or not said.data.approved:
            return "kept"
        await ctx.step(self.hand_over, what)
        return "sold"

    def hand_over(self, what: str) -> None:
        self.sold.append(what)


async def approve(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(action="accept", content={"approved": True})


async def decline(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(action="decline")


@both_eras
async def test_one_line_asks_every_client(mode: str) -> None:
    shop = Shop()
    async with Client(shop.mcp, mode=mode, elicitation_callback=approve) as client:
        assert (await client.call_tool("sell", {"what": "cow"})).structured_content == {"result": "sold"}


@both_eras
async def test_and_declining_is_a_value(mode: str) -> None:
    shop = Shop()
    async with Client(shop.mcp, mode=mode, elicitation_callback=decline) as client:
        assert (await client.call_tool("sell", {"what": "cow"})).structured_content == {"result": "kept"}


async def asking(mcp: DurableMCP[Any]) -> str:
    """The id of the call that asks something."""
    async with asyncio.timeout(10):
        while True:
            for call in (await mcp.calls.find()).calls:
                if call.questions:
                    return call.id
            await asyncio.sleep(0.01)


async def test_somebody_else_may_answer() -> None:
    shop = Shop()
    async with shop.mcp.serving():
        call = await shop.mcp.calls.start("sell", {"what": "cow"})
        await shop.mcp.calls.answer(await asking(shop.mcp), {"approved": True})
        assert await call.result() == "sold"


async def test_also_when_the_process_that_asked_is_gone(tmp_path: Path) -> None:
    asked, answered = Shop(tmp_path / "shop.db"), Shop(tmp_path / "shop.db")
    async with asked.mcp.serving():
        call = (await asked.mcp.calls.start("sell", {"what": "cow"})).id
        await asking(asked.mcp)
    async with answered.mcp.serving():
        await answered.mcp.calls.answer(call, {"approved": True})
        assert await answered.mcp.calls.result(call) == "sold"
    assert (asked.sold, answered.sold) == ([], ["cow"])


@both_eras
async def test_and_a_client_that_comes_back_is_asked_again_by_the_same_call(mode: str, tmp_path: Path) -> None:
    was_asked = asyncio.Event()

    async def think_about_it(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        was_asked.set()
        return await asyncio.Future()

    first, second = Shop(tmp_path / "shop.db"), Shop(tmp_path / "shop.db")
    meta: Any = {"io.perdure/idempotencyKey": "one cow"}
    async with Client(first.mcp, mode=mode, elicitation_callback=think_about_it) as client:
        request = asyncio.create_task(client.call_tool("sell", {"what": "cow"}, meta=meta))
        await was_asked.wait()
        request.cancel()
        await asyncio.wait({request})
    async with Client(second.mcp, mode=mode, elicitation_callback=approve) as client:
        result = await client.call_tool("sell", {"what": "cow"}, meta=meta)
        assert result.structured_content == {"result": "sold"}
        assert len((await second.mcp.calls.find()).calls) == 1
