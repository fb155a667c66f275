"""What ends a request and is no client that left: `on_disconnect="cancel"` stops nothing then."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from starlette.requests import HTTPConnection

from perdure import DurableContext, DurableMCP, Principal, step
from tests.protocol.asking import BOUND, Gate, calls_of, give_up, text
from tests.protocol.mounted import client_as, mounted
from tests.protocol.wired import MODE

pytestmark = pytest.mark.parametrize("mode", MODE.values(), ids=MODE)


@step
async def first_name() -> str:
    return "one"


@step
async def other_name() -> str:
    return "other"


def who(connection: HTTPConnection) -> Principal:
    return Principal(connection.headers["x-user"])


def server(file: Path, gate: Gate, *, code: str = "old") -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("none", engine=file, principal=who, log_level="CRITICAL")

    async def slow(ctx: DurableContext) -> str:
        name = await (first_name if code == "old" else other_name)()
        await ctx.step(gate.pass_through)
        return name

    mcp.tool(on_disconnect="cancel")(slow)
    return mcp


async def asked_of_a_server_that_ends(mcp: DurableMCP[Any], mode: str, gate: Gate) -> str:
    """The id of Ann's call, whose step runs."""
    call = ""
    with suppress(Exception):  # what a client says of a server that goes
        # The user's own uvicorn, which waits for a second and then cuts off; clients are the last to leave.
        async with AsyncExitStack() as clients, mounted(mcp) as url:
            client = await clients.enter_async_context(client_as(url, mode, "ann"))
            clients.push_async_callback(give_up, asyncio.create_task(ask(client)))
            await gate.until(came=1)
            ((call, _),) = await calls_of(mcp)
    return call


async def ask(client: Client) -> Any:
    async with asyncio.timeout(BOUND):
        return await client.call_tool("slow", {})


async def test_a_server_that_ends_under_a_request(mode: str, tmp_path: Path) -> None:
    file, gate = tmp_path / "calls.db", Gate()
    call = await asked_of_a_server_that_ends(server(file, gate), mode, gate)
    gate.open()
    restarted = server(file, gate)
    async with mounted(restarted) as url, client_as(url, mode, "ann") as client:
        assert text(await ask(client)) == "one"
        assert await calls_of(restarted) == [(call, "completed")]


async def test_a_call_that_is_stuck(mode: str, tmp_path: Path) -> None:
    file, gate = tmp_path / "calls.db", Gate()
    call = await asked_of_a_server_that_ends(server(file, gate), mode, gate)
    changed = server(file, gate, code="changed")
    async with mounted(changed) as url, client_as(url, mode, "ann") as client:
        assert "is stuck" in text(await ask(client))
        assert await calls_of(changed) == [(call, "stuck")]
    gate.open()
    mended = server(file, gate)
    async with mounted(mended) as url, client_as(url, mode, "ann") as client:
        assert text(await ask(client)) == "one"
        assert await calls_of(mended) == [(call, "completed")]
