"""The table of docs/callers.md, cell by cell: the official client, real processes and sockets.

Every cell is tried with two calls, of a tool with `on_disconnect="continue"` and of one with `"cancel"`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CancelledNotification, CancelledNotificationParams

from perdure import DurableMCP
from perdure.protocol.gateway import IDEMPOTENCY_KEY
from tests.protocol.asking import give_up, status_of, text, until
from tests.protocol.callers_server import CallersServer, go
from tests.protocol.callers_table import COLUMNS, TABLE, Cell, Column, Fate, Happening, markdown, reasons
from tests.protocol.lives import said
from tests.protocol.wired import BOUND, MODE, ROOT, RawHttp, Reports, raw_http, reported_stderr

SERVER = ["-m", "tests.protocol.callers_server"]
TOOLS = ("wait", "wait_with_me")
TIME_OUT = 1.0

pytestmark = pytest.mark.slow


# --- servers and clients --------------------------------------------------------------------------


@dataclass
class Servers:
    """Two HTTP servers and all stdio servers work on one file, which the observer reads without running calls."""

    file: Path
    observer: DurableMCP[Any]
    urls: dict[str, tuple[str, Reports]]
    lines: dict[str, tuple[Client, Reports]]
    """Over stdio, of each era: a client with a server process of its own, for what does not end it."""


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    file = tmp_path_factory.mktemp("callers") / "calls.db"
    observer = DurableMCP[Any]("callers", engine=file, log_level="ERROR")
    async with observer.serving(work=False), AsyncExitStack() as stack:
        sse, json_only = [await stack.enter_async_context(http_server(each, file)) for each in ("sse", "json")]
        lines = {era: await stack.enter_async_context(stdio_line(file, era)) for era in MODE}
        yield Servers(file, observer, {"sse": sse, "json": json_only}, lines)


@asynccontextmanager
async def http_server(transport: str, file: Path) -> AsyncGenerator[tuple[str, Reports]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *SERVER, transport, str(file), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    reports = Reports()
    reading = asyncio.create_task(reports.read(process.stderr))
    try:
        line = await reports.until(lambda: next((o for o in reports.others if o.startswith("Listening on")), None))
        yield line.split()[-1], reports
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


@asynccontextmanager
async def stdio_line(file: Path, era: str) -> AsyncGenerator[tuple[Client, Reports]]:
    parameters = StdioServerParameters(command=sys.executable, args=[*SERVER, "stdio", str(file)], cwd=ROOT)
    async with (
        reported_stderr() as (reports, stderr),
        Client(stdio_client(parameters, errlog=stderr), mode=MODE[era]) as client,
    ):
        yield client, reports


@dataclass
class House:
    """Where the calls of one cell are: a server that clients come to, and an observer."""

    column: Column
    servers: Servers
    observer: DurableMCP[Any]
    reports: Reports

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """Over stdio it is one that stays."""
        if self.column.transport == "stdio":
            client, self.reports = self.servers.lines[self.column.era]
            yield client
        else:
            async with self.passing_client() as client:
                yield client

    @asynccontextmanager
    async def passing_client(self) -> AsyncGenerator[Client]:
        """One that leaves when this is left."""
        transport, era = self.column.transport, self.column.era
        if transport == "stdio":
            async with stdio_line(self.servers.file, era) as (client, self.reports):
                yield client
            return
        where: Any = self.observer if transport == "memory" else self.servers.urls[transport][0]
        try:
            async with Client(where, mode=MODE[era]) as client:
                yield client
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK's client trips over what arrives while it leaves

    async def calls_with(self, token: str) -> list[str]:
        page = await self.observer.calls.find(limit=20)
        engine = self.observer.engine
        return [call.id for call in page.calls if token.encode() in await engine.arguments(call.id)]

    async def call_with(self, token: str, other_than: str = "") -> str:
        """The id of the call of this token, once it is on disk."""
        found: list[str] = []

        async def is_there() -> bool:
            found[:] = [call for call in await self.calls_with(token) if call != other_than]
            return bool(found)

        await until(is_there)
        return found[0]

    async def is_over(self, token: str) -> None:
        """Wait until the server knows that this request's client is gone."""
        if self.column.transport != "memory":  # where the handler has ended with its client
            assert await self.reports.first(token, "over") is False


@asynccontextmanager
async def house_of(column: Column, servers: Servers) -> AsyncGenerator[House]:
    if column.transport != "memory":
        reports = Reports() if column.transport == "stdio" else servers.urls[column.transport][1]
        yield House(column, servers, servers.observer, reports)
        return
    reports = Reports()
    mcp = CallersServer("memory:", reports.add).mcp
    async with mcp.serving():
        yield House(column, servers, mcp, reports)


@dataclass
class Asked:
    """A request that is under way, and its call."""

    tool: str
    token: str
    request: asyncio.Task[Any]
    call: str


async def ask(house: House, client: Client, tool: str, token: str, timeout: float | None = None) -> Asked:
    call_tool = client.call_tool(tool, {"token": token}, read_timeout_seconds=timeout)
    request = asyncio.create_task(_eventually(call_tool))
    return Asked(tool, token, request, await house.call_with(token))


async def _eventually(asking: Any) -> Any:
    return await asking


# --- what happens ---------------------------------------------------------------------------------


async def happens(what: Happening, house: House, client: Client, asked: list[Asked]) -> None:
    match what:
        case "it times out":
            for each in asked:
                with pytest.raises(MCPError, match=r"(?i)timed out"):
                    await each.request
        case "its caller gives up":
            for each in asked:
                await give_up(each.request)
        case "it cancels with a reason of its own":
            await cancel(house, client, asked, "the user pressed stop")
        case "it cancels without a reason":
            await cancel(house, client, asked, "")
        case "the handler is cancelled":
            for each in asked:
                await client.call_tool("interrupt", {"token": each.token})
                with pytest.raises(MCPError, match="too long"):
                    await each.request
        case "the client disconnects" | "it deletes its session":
            raise AssertionError("that ends the client: see leaves()")


async def cancel(house: House, client: Client, asked: list[Asked], reason: str) -> None:
    for each in asked:
        request = await house.reports.first(each.token, "request")
        params = CancelledNotificationParams(request_id=request, reason=reason)
        await client.session.send_notification(CancelledNotification(params=params))


async def leaves(what: Happening, house: House, tokens: dict[str, str]) -> dict[str, str]:
    """A client asks, and goes for good. The id of each call."""
    if house.column.transport in ("sse", "json"):
        return await leaves_http(what, house, tokens)
    async with house.passing_client() as client:
        asked = [await ask(house, client, tool, token) for tool, token in tokens.items()]
        if house.column.transport == "memory":  # a client in memory that leaves gives up what it has asked
            for each in asked:
                await give_up(each.request)
    for each in asked:
        await give_up(each.request)
    return {each.tool: each.call for each in asked}


async def leaves_http(what: Happening, house: House, tokens: dict[str, str]) -> dict[str, str]:
    """By hand: the official client deletes its session whenever it leaves, and we want the one or the other."""
    url, _ = house.servers.urls[house.column.transport]
    async with raw_http(url, house.column.era) as client:
        requests = [asyncio.create_task(client.call(tool, token)) for tool, token in tokens.items()]
        calls = {tool: await house.call_with(token) for tool, token in tokens.items()}
        if what == "it deletes its session":
            assert (await client.leave()).status_code == 200
        else:
            for request in requests:
                request.cancel()
        for token in tokens.values():
            await house.is_over(token)
        await asyncio.wait(requests, timeout=BOUND)
    return calls


# --- what becomes of it ---------------------------------------------------------------------------


async def becomes(fate: Fate, house: House, client: Client, tool: str, token: str, call: str) -> None:
    if fate == "goes on":
        await house.observer.calls.signal(call, go, "went on")
        assert text(await client.call_tool(tool, {"token": token})) == f"{token} went on"
        assert await house.calls_with(token) == [call]
    else:
        await status_of(house.observer, call, "cancelled")
        again = asyncio.create_task(_eventually(client.call_tool(tool, {"token": token})))
        new = await house.call_with(token, other_than=call)
        await house.observer.calls.signal(new, go, "began anew")
        assert text(await again) == f"{token} began anew"


CELLS = [
    pytest.param(what, column, cell, id=f"{what.replace(' ', '_')}-{column}")
    for what, row in TABLE.items()
    for column, cell in row.items()
    if isinstance(cell, Cell)
]


@pytest.mark.parametrize(("what", "column", "cell"), CELLS)
async def test_of_a_call_becomes_what_the_table_says(
    what: Happening, column: Column, cell: Cell, servers: Servers
) -> None:
    tokens = {tool: f"{tool}-{uuid4().hex}" for tool in TOOLS}
    fates: dict[str, Fate] = dict(zip(TOOLS, (cell.when_continue, cell.when_cancel), strict=True))
    async with house_of(column, servers) as house:
        if what in ("the client disconnects", "it deletes its session"):
            calls = await leaves(what, house, tokens)
            async with house.client() as client:
                for tool in TOOLS:
                    await becomes(fates[tool], house, client, tool, tokens[tool], calls[tool])
            return
        async with house.client() as client:
            await client.call_tool("interrupt", {"token": "nobody"})  # whoever times out shall time out while waiting
            timeout = TIME_OUT if what == "it times out" else None
            asked = [await ask(house, client, tool, token, timeout) for tool, token in tokens.items()]
            await happens(what, house, client, asked)
            for each in asked:
                if fates[each.tool] == "answered":
                    await house.observer.calls.signal(each.call, go, "went on")
                    assert text(await asyncio.wait_for(each.request, BOUND)) == f"{each.token} went on"
                else:
                    await house.is_over(each.token)
                    await becomes(fates[each.tool], house, client, each.tool, each.token, each.call)
                await give_up(each.request)


@pytest.mark.parametrize("transport", ["sse", "json"])
async def test_a_cancellation_by_hand_in_the_stateless_era_is_accepted_and_not_heard(
    transport: str, servers: Servers
) -> None:
    url, reports = servers.urls[transport]
    house = House(Column("json", "stateless"), servers, servers.observer, reports)
    token = uuid4().hex
    async with raw_http(url, "stateless") as client:
        request = asyncio.create_task(client.call("wait_with_me", token))
        call = await house.call_with(token)
        note = {"requestId": await reports.first(token, "request"), "reason": "the user pressed stop"}
        assert (await client.post("notifications/cancelled", note)).status_code == 202
        await servers.observer.calls.signal(call, go, "went on")
        assert f"{token} went on" in (await request).text


# --- strangers ------------------------------------------------------------------------------------

FORWARDED: list[dict[str, str]] = [
    {},
    {"Forwarded": "for=203.0.113.9"},
    {"X-Forwarded-For": "203.0.113.9"},
    {"Via": "1.1 proxy"},
    {"X-Real-IP": "203.0.113.9"},
]


@pytest.mark.parametrize("headers", FORWARDED, ids=lambda headers: next(iter(headers), "no header"))
async def test_only_a_client_that_no_proxy_speaks_for_shares_anything(
    headers: dict[str, str], servers: Servers
) -> None:
    """The server is bound to loopback, as it is behind a proxy of the same machine."""
    url, reports = servers.urls["sse"]
    house = House(Column("sse", "stateless"), servers, servers.observer, reports)
    is_own = not headers
    async with httpx.AsyncClient(headers=headers, timeout=BOUND) as http:
        client = RawHttp(http, url, "stateless")
        shared, token = uuid4().hex, uuid4().hex
        assert said(await client.call("ours", shared)) == said(await client.call("ours", shared))

        alone = [said(await client.call("mine", uuid4().hex)), said(await with_a_key(client, http, url))]
        assert [("authentication" in each, "shared=True" in each) for each in alone] == [(not is_own, not is_own)] * 2

        await asks_and_leaves(client, house, token, calls=1)
        await asks_and_leaves(client, house, token, calls=1 if is_own else 2)
    async with raw_http(url, "stateless") as own:  # the machine's own user adopts no stranger's
        await asks_and_leaves(own, house, token, calls=1 if is_own else 3)


async def asks_and_leaves(client: RawHttp, house: House, token: str, calls: int) -> None:
    asked_before = len(house.reports.of(token, "request"))
    request = asyncio.create_task(client.call("wait", token))
    await house.reports.until(lambda: len(house.reports.of(token, "request")) > asked_before)

    async def are_there() -> bool:
        return len(await house.calls_with(token)) == calls

    await until(are_there)
    await give_up(request)
    await house.reports.until(lambda: len(house.reports.of(token, "over")) > asked_before)
    assert await are_there()


async def with_a_key(client: RawHttp, http: httpx.AsyncClient, url: str) -> httpx.Response:
    message = client.message("tools/call", {"name": "ours", "arguments": {"token": uuid4().hex}})
    message["params"]["_meta"][IDEMPOTENCY_KEY] = uuid4().hex
    return await http.post(url, headers=client.headers("tools/call", message["params"]), json=message)


# --- the table itself -----------------------------------------------------------------------------


def test_the_table_has_every_happening_over_every_transport_in_both_eras() -> None:
    assert {(column.transport, column.era) for column in COLUMNS} == {
        (transport, era) for transport in ("stdio", "sse", "json", "memory") for era in ("sessions", "stateless")
    }
    for row in TABLE.values():
        assert set(row) == set(COLUMNS)


def test_the_document_has_the_table_and_the_reasons_for_what_it_leaves_out() -> None:
    document = (ROOT / "docs" / "callers.md").read_text()
    assert markdown() in document
    for reason in reasons().values():
        assert reason in document
