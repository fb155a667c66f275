"""What tests of requests share: a tool that waits to be let through, and clients that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp_types import CallToolResult, TextContent

from perdure import DurableMCP
from perdure.core.call import Status
from perdure.protocol.gateway import IDEMPOTENCY_KEY

MODES = ["auto", "legacy"]
BOUND = 30


class Gate:
    """Where a tool waits; it counts who came."""

    def __init__(self) -> None:
        self.came = 0
        self._open = asyncio.Event()
        self._arrivals = asyncio.Condition()

    async def pass_through(self) -> int:
        """Which one it was, once the gate is open."""
        async with self._arrivals:
            self.came += 1
            mine = self.came
            self._arrivals.notify_all()
        await self._open.wait()
        return mine

    async def until(self, came: int) -> None:
        async with asyncio.timeout(BOUND), self._arrivals:
            await self._arrivals.wait_for(lambda: self.came >= came)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def asked(asking: Awaitable[Any]) -> AsyncGenerator[asyncio.Task[Any]]:
    """A request under way; whoever leaves early gives it up."""

    async def ask() -> Any:
        return await asking

    task = asyncio.create_task(ask())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def give_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


def text(result: Any) -> str:
    assert isinstance(result, CallToolResult)
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def with_key(key: str) -> Any:
    return {IDEMPOTENCY_KEY: key}


async def calls_of(mcp: DurableMCP[Any], tool: str | None = None) -> list[tuple[str, Status]]:
    """Of each call its id and status, the oldest first."""
    found = await mcp.calls.find(tool=tool)
    return [(call.id, call.status) for call in reversed(found.calls)]


async def status_of(mcp: DurableMCP[Any], call_id: str, wanted: Status) -> None:
    """Wait until a call is as wanted."""
    async with asyncio.timeout(BOUND):
        async for view in mcp.calls.watch(call_id):
            if view.status == wanted:
                return
    raise AssertionError(f"it ended otherwise: {await mcp.calls.get(call_id)}")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(BOUND):
        while not await holds():
            await asyncio.sleep(0.01)
