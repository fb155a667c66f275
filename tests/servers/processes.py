"""Shipped servers as processes of their own, which can be killed and started again on the same file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client
from mcp_types import TextContent

from perdure.cli.children import Child, listening


@asynccontextmanager
async def running(server: str, file: Path, settings: Mapping[str, str]) -> AsyncGenerator[Child]:
    """`perdure run SERVER --http 0 --engine FILE`, from when it listens; killed at the latest when this is left."""
    command = ("perdure.cli", "run", server, "--http", "0", "--engine", str(file))
    async with listening(*command, settings=settings) as child:
        yield child


async def ask(client: Client, tool: str, /, **arguments: Any) -> Any:
    """What a tool answers: its structured content, or the text of its error as an `Error`."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise Refusal("\n".join(block.text for block in result.content if isinstance(block, TextContent)))
    return result.structured_content


async def ask_at(address: str, tool: str, /, **arguments: Any) -> Any:
    """The same, by a client of its own."""
    async with Client(address) as client:
        return await ask(client, tool, **arguments)


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
