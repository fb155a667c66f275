"""A shop: what is in stock, in a store that calls change exactly once; and steps in some of their shapes."""

from __future__ import annotations

import os

import httpx
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Retry, StepFailed, ToolError, current_step, step

mcp = DurableMCP("shop")


class Item(BaseModel):
    sku: str
    stock: int


items = mcp.store("items", Item)
sold = mcp.store("sold", int)


class Warehouse:
    """Methods can be steps; of `self` only the type counts when a call is replayed."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    @step
    async def ship(self, sku: str) -> str:
        async with httpx.AsyncClient() as http:
            reply = await http.post(
                f"{os.environ[self._setting]}/parcels",
                json={"sku": sku},
                headers={"Idempotency-Key": current_step().idempotency_key},
            )
        return reply.raise_for_status().json()["parcel"]

    @step(retry=Retry(attempts=1))
    def count(self, sku: str) -> int:
        reply = httpx.get(f"{os.environ[self._setting]}/shelves/{sku}")
        return int(reply.raise_for_status().json()["count"])


warehouse = Warehouse("WAREHOUSE_URL")


@mcp.tool()
async def take_stock(sku: str, ctx: DurableContext) -> Item:
    """Count what is on a shelf."""
    item = Item(sku=sku, stock=await warehouse.count.options(name="count the shelf")(sku))
    await items.set(sku, item)
    return item


@mcp.tool()
async def buy(sku: str, ctx: DurableContext) -> str:
    """Buy one, and have it shipped."""

    def one_less(item: Item | None) -> Item:  # pure: it runs again when somebody else was faster
        if item is None or item.stock < 1:
            raise ToolError(f"{sku} is sold out.")
        return item.model_copy(update={"stock": item.stock - 1})

    def one_more(item: Item | None) -> Item | None:
        return item and item.model_copy(update={"stock": item.stock + 1})

    left = await items.update(sku, one_less)
    try:
        parcel = await warehouse.ship(sku)
    except StepFailed as failed:  # tried five times
        await items.update(sku, one_more)
        raise ToolError(f"{sku} cannot be shipped now.") from failed
    await sold.update(sku, lambda before: (before or 0) + 1)
    return f"Parcel {parcel} is on its way; {left.stock if left else 0} left."


@mcp.tool()
async def add(a: int, b: int, ctx: DurableContext) -> list[int]:
    """Add two numbers, each time as a step of another shape."""

    async def plus(x: int, y: int) -> int:
        return x + y

    return [
        await ctx.step(plus, a, y=b),
        await step(plus, at_most_once=True)(a, b),
        await step(lambda: a + b, name="plus of a lambda")(),
    ]


@mcp.resource("shop://items")
async def all_items() -> dict[str, int]:
    return {sku: item.stock for sku, item in await items.items()}


if __name__ == "__main__":
    mcp.run()
