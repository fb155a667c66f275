"""A server with several applications: what holds for how one is reached says nothing of another one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.server.transport_security import TransportSecuritySettings

from perdure import DurableMCP
from tests.protocol.asking import until
from tests.protocol.wired import STATELESS

UNCHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)


def server() -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("doors", engine="memory:", log_level="CRITICAL")

    @mcp.tool(key="mine")
    async def mine() -> str:
        return "mine"

    return mcp


@asynccontextmanager
async def running(mcp: DurableMCP[Any], read_stderr: Callable[[], str], **options: Any) -> AsyncGenerator[Client]:
    """A client of the application that perdure itself binds to loopback."""
    serving = asyncio.create_task(mcp.run_streamable_http_async(port=0, **options))
    said = ""

    async def listens() -> bool:
        nonlocal said
        said += read_stderr()
        return "Listening on" in said or serving.done()

    await until(listens)
    (url,) = re.findall(r"Listening on (\S+)", said)
    try:
        async with Client(url, mode=STATELESS) as client:
            yield client
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # which the runner takes for its own
        await serving


async def is_own_user(client: Client) -> bool:
    return not (await client.call_tool("mine", {})).is_error


async def test_one_without_the_host_check_stays_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    mcp = server()
    async with running(mcp, lambda: capsys.readouterr().err, transport_security=UNCHECKED) as client:
        assert not await is_own_user(client)
        mcp.streamable_http_app()  # which would check, if it were asked
        assert not await is_own_user(client)


async def test_one_that_is_the_machines_own_stays_it(capsys: pytest.CaptureFixture[str]) -> None:
    mcp = server()
    mcp.streamable_http_app(transport_security=UNCHECKED)
    async with running(mcp, lambda: capsys.readouterr().err) as client:
        assert await is_own_user(client)
        mcp.streamable_http_app(transport_security=UNCHECKED)
        assert await is_own_user(client)


async def test_the_url_that_is_shown_is_the_one_to_connect_to(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(server(), lambda: capsys.readouterr().err, streamable_http_path="/durable") as client:
        assert await is_own_user(client)
