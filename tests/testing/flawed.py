"""Bodies that do not replay in another process, and one that does."""

from __future__ import annotations

import random
from datetime import timedelta

from perdure import DurableContext, DurableMCP, ToolError, step

mcp = DurableMCP("flawed", log_level="CRITICAL")

ITEMS = [f"item {n}" for n in range(20)]


@step
async def touch(item: str) -> str:
    return item


@mcp.tool()
async def in_order(ctx: DurableContext) -> list[str]:
    ctx.random.shuffle(items := list(ITEMS))
    return [await touch(item) for item in items]


@mcp.tool()
async def in_the_order_of_a_set(ctx: DurableContext) -> int:
    for item in set(ITEMS):
        await touch(item)
    return len(ITEMS)


@mcp.tool()
async def by_chance(ctx: DurableContext) -> float:
    await touch("once")
    return random.random()


@mcp.tool()
async def refused(ctx: DurableContext) -> None:
    await touch("once")
    raise ToolError("Not like this.")


@mcp.tool()
async def asked_by(ctx: DurableContext) -> str:
    return "nobody" if ctx.principal is None else f"{ctx.principal.subject} at {ctx.now():%H:%M}"


@mcp.tool()
async def waiting(ctx: DurableContext) -> None:
    await touch("once")
    await ctx.sleep(timedelta(days=1))


@mcp.tool()
async def whole() -> str:
    return "one step"
