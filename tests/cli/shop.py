"""A small server for the command line to look at."""

from __future__ import annotations

from math import inf, nan

from pydantic import BaseModel, Field

from perdure import DurableContext, DurableMCP, Signal, ToolError, step

mcp = DurableMCP("shop")

decision = Signal("decision", bool, once=True)


@step
async def price(item: str) -> int:
    if item == "nothing":
        raise ToolError("We do not sell nothing.")
    return len(item)


@mcp.tool(key="offer-{item}")
async def offer(item: str, ctx: DurableContext) -> str:
    return f"{item} for {await price(item)}"


@mcp.tool(signals=[decision])
async def order(item: str, ctx: DurableContext) -> str:
    cost = await price(item)
    await ctx.set_status("waiting for a decision")
    return f"ordered for {cost}" if await ctx.receive(decision) else "not ordered"


@mcp.job()
async def weigh(ctx: DurableContext) -> list[float]:
    return [1.5, nan, inf]


class Gift(BaseModel):
    wrapped: bool = Field(description="In paper")
    card: str = ""


@mcp.tool()
async def wrap(ctx: DurableContext) -> str:
    said = await ctx.elicit("Is it a gift?", Gift, name="gift")
    return f"{said.data.wrapped} {said.data.card}" if said.action == "accept" else said.action


@mcp.tool()
async def praise(ctx: DurableContext) -> str:
    return (await ctx.sample("Praise the cake")).text


@mcp.tool()
async def sign_in(ctx: DurableContext) -> str:
    return (await ctx.elicit_url("Sign in first", "https://shop.example/in")).action
