"""What becomes of a request when its client leaves, cancels, times out or is answered: each transport, each era."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from mcp.shared.exceptions import MCPError

from tests.protocol.wired import Era, Process, Servers, Transport, http_servers, line, raw_http


@dataclass(frozen=True)
class Cell:
    transport: Transport
    era: Era
    leaving_cancels_handler: bool
    cancellation_arrives: bool

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"


CELLS = [
    Cell("stdio", "sessions", leaving_cancels_handler=True, cancellation_arrives=True),
    Cell("stdio", "stateless", leaving_cancels_handler=True, cancellation_arrives=True),
    Cell("sse", "sessions", leaving_cancels_handler=False, cancellation_arrives=True),
    Cell("sse", "stateless", leaving_cancels_handler=True, cancellation_arrives=False),
    Cell("json", "sessions", leaving_cancels_handler=False, cancellation_arrives=True),
    Cell("json", "stateless", leaving_cancels_handler=False, cancellation_arrives=False),
    Cell("memory", "sessions", leaving_cancels_handler=True, cancellation_arrives=True),
    Cell("memory", "stateless", leaving_cancels_handler=True, cancellation_arrives=False),
]


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Servers]:
    async with http_servers() as servers:
        yield servers


@pytest.fixture
def token() -> str:
    return uuid4().hex


each_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@each_cell
async def test_an_answer_that_arrives_is_handed(cell: Cell, servers: Servers, token: str) -> None:
    async with line(cell.transport, cell.era, servers) as at:
        call = await at.hold(token)
        await at.release(token)
        assert not (await call).is_error
        assert await at.reports.first(token, "closed") == {"handed": True, "gone": False}


@each_cell
async def test_a_client_that_leaves_is_gone_and_nothing_is_handed(cell: Cell, servers: Servers, token: str) -> None:
    if cell.transport in ("sse", "json"):
        await drop_the_connection(cell, servers[cell.transport], token)
        return
    async with line(cell.transport, cell.era, servers) as at:
        call = await at.hold(token)
    call.cancel()  # a stateless client in memory runs the handler in its caller's task
    with suppress(MCPError, asyncio.CancelledError):
        await call
    await at.reports.handler(token, "cancelled")
    assert at.reports.of(token, "closed") == [{"handed": False, "gone": True}]
    assert at.reports.of(token, "cancel") == []


async def drop_the_connection(cell: Cell, server: Process, token: str) -> None:
    async with (
        raw_http(server.url, cell.era) as leaving,
        raw_http(server.url, cell.era) as staying,
    ):
        call = asyncio.create_task(leaving.call("hold", token))
        await server.reports.handler(token, "holds")
        call.cancel()
        assert await server.reports.first(token, "closed") == {"handed": False, "gone": True}
        assert await server.reports.first(token, "waited") == "gone"
        if not cell.leaving_cancels_handler:
            await staying.call("release", token)
        await server.reports.handler(token, "cancelled" if cell.leaving_cancels_handler else "returned")
        assert len(server.reports.of(token, "closed")) == 1


@each_cell
async def test_a_cancellation_tells_its_reason_where_it_arrives(cell: Cell, servers: Servers, token: str) -> None:
    async with line(cell.transport, cell.era, servers) as at:
        call = await at.hold(token)
        await at.cancel(token, "I changed my mind")
        if cell.cancellation_arrives:
            assert await at.reports.first(token, "cancel") == {"reason": "I changed my mind", "wanted": True}
            await at.reports.handler(token, "cancelled")
            assert await at.reports.first(token, "closed") == {"handed": False, "gone": False}
        else:
            await at.release(token)
            await call
            assert await at.reports.first(token, "closed") == {"handed": True, "gone": False}
            assert at.reports.of(token, "cancel") == []
        call.cancel()
        with suppress(MCPError, asyncio.CancelledError):
            await call


@each_cell
async def test_a_time_out_of_the_client_is_no_wish_to_cancel(cell: Cell, servers: Servers, token: str) -> None:
    async with line(cell.transport, cell.era, servers) as at:
        await at.release("something else")  # a new process is slow at first
        call = await at.hold(token, timeout=0.3)
        with pytest.raises(MCPError, match=r"(?i)timed out"):
            await call
        closed: dict[str, Any] = await at.reports.first(token, "closed")
        assert not closed["handed"]
        if cell.cancellation_arrives:
            assert await at.reports.first(token, "cancel") == {"reason": "timed out after 0.3s", "wanted": False}
            assert at.reports.of(None, "cancel") == []
        else:
            assert closed["gone"]
            assert at.reports.of(token, "cancel") == []


@each_cell
async def test_a_caller_that_gives_up_is_no_wish_to_cancel(cell: Cell, servers: Servers, token: str) -> None:
    async with line(cell.transport, cell.era, servers) as at:
        call = await at.hold(token)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        closed: dict[str, Any] = await at.reports.first(token, "closed")
        assert not closed["handed"]
        if cell.cancellation_arrives:
            assert await at.reports.first(token, "cancel") == {"reason": "caller cancelled", "wanted": False}


async def test_a_reason_is_seen_even_if_the_client_closes_its_session_right_behind_it(servers: Servers) -> None:
    for _ in range(10):
        token = uuid4().hex
        async with line("sse", "sessions", servers) as at:
            call = await at.hold(token)
            call.cancel()
        assert await at.reports.first(token, "cancel") == {"reason": "caller cancelled", "wanted": False}


def test_the_table_has_every_transport_and_era() -> None:
    assert {(cell.transport, cell.era) for cell in CELLS} == {
        (transport, era) for transport in ("stdio", "sse", "json", "memory") for era in ("sessions", "stateless")
    }
