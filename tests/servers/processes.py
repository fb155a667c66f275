"""Shipped servers as processes of their own, which can be killed and started again on the same file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client
from mcp_types import CallToolResult, TextContent

from perdure.cli.children import Child, listening


@asynccontextmanager
async def running(server: str, file: Path, settings: Mapping[str, str]) -> AsyncGenerator[Child]:
    """`perdure run SERVER --http 0 --engine FILE`, from when it listens; killed at the latest when this is left."""
    command = ("perdure.cli", "run", server, "--http", "0", "--engine", str(file))
    async with listening(*command, settings=settings) as child:
        yield child


async def ask(client: Client, tool: str, /, **arguments: Any) -> Any:
    """What a tool answers, structured; raises `Refusal`."""
    return _answer(await client.call_tool(tool, arguments))


async def ask_at(address: str, tool: str, /, **arguments: Any) -> Any:
    """The same, by a client of its own."""
    async with Client(address) as client:
        result = await client.call_tool(tool, arguments)
    return _answer(result)


def _answer(result: CallToolResult) -> Any:
    if result.is_error:
        raise Refusal("\n".join(block.text for block in result.content if isinstance(block, TextContent)))
    return result.structured_content


class Refusal(Exception):
    """A tool error, with its text."""


@asynccontextmanager
async def asked(address: str, tool: str, /, **arguments: Any) -> AsyncGenerator[asyncio.Task[Any]]:
    """A client that has asked; it is let go when this is left."""
    task = asyncio.create_task(ask_at(address, tool, **arguments))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Looks again and again, for half a minute at most."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.02)
