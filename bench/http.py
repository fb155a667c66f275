"""Calls over streamable HTTP, each server in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from urllib.parse import urljoin

from mcp import Client
from mcp_types import CallToolResult

from bench.child import Child, running
from bench.promises import Effort, Measured
from bench.rounds import medians, ms

ERA = "2026-07-28"


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    async with AsyncExitStack() as stack:

        async def client_of(module: str, *arguments: str | Path) -> Client:
            server = await stack.enter_async_context(running(module, "http", *arguments))
            return await stack.enter_async_context(Client(await url_of(server), mode=ERA))

        plain = await client_of("bench.plain_server")
        durable = await client_of("bench.durable_server", effort.folder / "http.db")
        took = await medians(
            {
                "plain": calling(plain, "add"),
                "body": calling(durable, "add_in_a_body"),
                "whole": calling(durable, "add"),
                "read-only": calling(durable, "add_unrecorded"),
            },
            rounds=effort.of(150, 20),
            each=5,
        )
    for name, limit in (("body", 1.5), ("whole", 1.5), ("read-only", 1.05)):
        ratio = took[name] / took["plain"]
        figure = f"{ratio:.2f} × plain: {ms(took[name])} to {ms(took['plain'])}"
        yield Measured(f"http-{name}", figure, ratio <= limit)


async def url_of(server: Child) -> str:
    """Once it listens."""
    return urljoin(await server.hear("Listening on "), "/mcp")


_numbers = count()


def calling(client: Client, tool: str) -> Callable[[], Awaitable[None]]:
    """A call like no other before, whose answer is looked at."""

    async def call() -> None:
        number = next(_numbers)
        result = await client.call_tool(tool, {"a": number, "b": 1})
        assert isinstance(result, CallToolResult)
        if result.structured_content != {"result": number + 1}:
            raise RuntimeError(f"{tool} gave {result}")

    return call
