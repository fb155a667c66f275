"""How an HTTP server starts and ends: on a port of its own, in its grace, whatever is still open."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from perdure.protocol.serve import address_of, listen, loopback_only
from tests.protocol.wired import STATELESS, Era, Process, process, raw_http

GRACE = 3.0
SLACK = 3.0


@asynccontextmanager
async def stopping(server: Process, how: str = "SIGTERM") -> AsyncGenerator[None]:
    """Stop it; it must end within its grace."""
    began = time.monotonic()
    server.process.send_signal(getattr(signal, how))
    yield
    assert await server.ended() == 0
    assert time.monotonic() - began < GRACE + SLACK


def lives(server: Process) -> list[str]:
    return [line["life"] for line in server.reports.lines if "life" in line]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
async def test_requests_that_wait_are_let_go_and_streams_ended(how: str) -> None:
    async with (
        process("http") as server,
        Client(server.url, mode="legacy") as session,  # keeps a GET stream open
        Client(server.url, mode=STATELESS) as stateless,
        stateless.listen(tools_list_changed=True) as subscription,
    ):
        waiting = [
            asyncio.create_task(client.call_tool("hold", {"token": token}))
            for client, token in ((session, "a"), (stateless, "b"))
        ]
        await server.reports.handler("a", "holds")
        await server.reports.handler("b", "holds")
        async with stopping(server, how):
            for each in waiting:
                with pytest.raises(MCPError, match="Ask again"):
                    await each
            async for _ in subscription:
                pass
        assert lives(server) == ["entered", "draining", "exited", "returned"]
        for token in "a", "b":
            assert server.reports.of(token, "closed") == [{"handed": False, "gone": False}]


async def test_an_idle_session_does_not_delay_the_end() -> None:
    async with process("http", "--grace", "60") as server, Client(server.url, mode="legacy") as client:
        await client.call_tool("release", {"token": "a"})
        async with stopping(server):
            pass


@pytest.mark.parametrize("era", ["sessions", "stateless"])
async def test_a_request_that_does_not_end_is_cut_off_in_time(era: Era) -> None:
    async with process("http", "--grace", str(GRACE)) as server, raw_http(server.url, era) as client:
        call = asyncio.create_task(client.call("ordinary", "a"))
        await server.reports.handler("a", "holds")
        async with stopping(server):
            reply: Any = (await asyncio.gather(call, return_exceptions=True))[0]
            assert isinstance(reply, httpx.HTTPError) or '"result"' not in reply.text
        assert lives(server) == ["entered", "draining", "exited", "returned"]


async def test_a_request_that_ends_in_its_time_is_answered() -> None:
    async with process("http") as server, raw_http(server.url, "stateless") as client:
        call = asyncio.create_task(client.call("ordinary", "a"))
        await server.reports.handler("a", "holds")
        async with stopping(server):
            await server.reports.until(lambda: "draining" in lives(server))
            server.process.send_signal(signal.SIGUSR1)  # opens all gates
            assert '"done"' in (await call).text


async def test_a_lifespan_that_does_not_end_is_left_behind_in_time() -> None:
    async with process("http", "--grace", "1", "--hang", "lifespan") as server:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 1
        assert time.monotonic() - began < 1 + SLACK


async def test_a_thread_at_work_does_not_keep_the_process() -> None:
    async with process("http", "--hang", "thread") as server:
        async with stopping(server):
            pass
        assert "exited" in lives(server)


async def test_what_fails_at_the_start_ends_the_process() -> None:
    async with process("http", "--hang", "start", waits=False) as server:
        assert await server.ended() != 0
        assert any("no start today" in line for line in server.reports.others)


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"Cannot listen on 127\.0\.0\.1, port {port}"):
            listen("127.0.0.1", port)


def test_all_addresses_of_a_name_get_one_port() -> None:
    sockets = listen("localhost", 0)
    try:
        addresses = [address_of(each) for each in sockets]
        assert len({port for _, port in addresses}) == 1
        assert loopback_only(addresses) == frozenset(addresses)
        assert loopback_only([("0.0.0.0", 80)]) == frozenset()
    finally:
        for each in sockets:
            each.close()


def test_connections_are_watched_for_peers_that_vanished() -> None:
    (listener,) = listen("127.0.0.1", 0)
    with listener, socket.create_connection(address_of(listener)):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45_000
