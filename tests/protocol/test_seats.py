"""Thousands of requests are remembered whose clients have left: by their names, not with all that they brought."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar
from typing import Any

from mcp import Client

from perdure import DurableMCP


class Luggage:
    """Something in the context of a request."""


carried: ContextVar[Luggage] = ContextVar("carried")


async def test_what_a_request_brought_goes_when_its_client_has_left_and_its_call_is_over() -> None:
    """In the stateless era: a session in memory keeps the context of its last message itself."""
    mcp = DurableMCP[Any]("luggage", engine="memory:", log_level="CRITICAL")
    begun, go = asyncio.Event(), asyncio.Event()

    @mcp.tool()
    async def slow() -> None:
        begun.set()
        await go.wait()

    async def ask(client: Client) -> weakref.ref[Luggage]:
        luggage = Luggage()
        carried.set(luggage)
        asking = asyncio.create_task(client.call_tool("slow", {}))
        await begun.wait()
        asking.cancel()
        await asyncio.wait({asking})
        return weakref.ref(luggage)

    async with mcp.serving(), Client(mcp) as client:
        luggage = await asyncio.create_task(ask(client))
        go.set()
        async with asyncio.timeout(10):
            while luggage() is not None:
                gc.collect()
                await asyncio.sleep(0.01)
        assert [call.status for call in (await mcp.calls.find()).calls] == ["completed"]
