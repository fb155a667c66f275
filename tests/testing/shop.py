"""A small server under trial."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Retry, Signal, current_step, step

mcp = DurableMCP("shop", log_level="CRITICAL")
stock = mcp.store("stock", int)
go = Signal("go", bool)

PATIENT = Retry(attempts=None, first=timedelta(seconds=1), ceiling=timedelta(minutes=1))


class Receipt(BaseModel):
    number: str


@step(retry=PATIENT)
async def order(item: str) -> str:
    raise NotImplementedError("the warehouse")


async def find_receipt(amount: int) -> Receipt | None:
    raise NotImplementedError("the bank")


@step(reconcile=find_receipt)
async def charge(amount: int) -> Receipt:
    raise NotImplementedError("the bank")


@step
def weigh(item: str) -> int:
    return len(item)


@mcp.tool()
async def deliver(item: str, days: int, ctx: DurableContext) -> str:
    number = await order(item)
    await ctx.sleep(timedelta(days=days))
    return f"{number} at {ctx.now():%H:%M}"


@mcp.tool()
async def weight(item: str, ctx: DurableContext) -> int:
    return await weigh(item)


@mcp.tool(deadline=timedelta(hours=1))
async def hurry(ctx: DurableContext) -> str:
    await ctx.sleep(timedelta(days=1))
    return "late"


@mcp.tool(signals=[go])
async def buy(item: str, ctx: DurableContext) -> str:
    """Takes one from stock, then pays, then has it packed by a job while it waits to be told to send it."""
    await stock.update("tea", lambda left: (left or 0) - 1)
    receipt = await charge(5)
    packing = asyncio.create_task(pack(item))
    await ctx.receive(go, timeout=timedelta(days=1))
    return f"{await packing} under {receipt.number}"


@mcp.job()
async def pack(ctx: DurableContext, item: str) -> str:
    await ctx.sleep(timedelta(hours=2))
    return f"{item} in a box"


@mcp.tool()
async def who() -> str:
    principal = current_step().principal
    return "nobody in particular" if principal is None else principal.subject
