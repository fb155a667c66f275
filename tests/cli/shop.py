"""A small server for the command line to look at."""

from __future__ import annotations

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
