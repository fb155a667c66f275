"""The wired server, as tests meet it: over each transport and era, with what it reports."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    CancelledNotification,
    CancelledNotificationParams,
)

from tests.protocol.wired_server import WiredServer

Transport = Literal["stdio", "sse", "json", "memory"]
Era = Literal["sessions", "stateless"]

STATELESS = "2026-07-28"
MODE = {"sessions": "legacy", "stateless": STATELESS}
ROOT = Path(__file__).parents[2]
SERVER = ["-m", "tests.protocol.wired_server"]
BOUND = 30


class Reports:
    """What the server said so far; other lines of its stderr are kept apart."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.others: list[str] = []
        self._news = asyncio.Event()

    def add(self, report: dict[str, Any]) -> None:
        self.lines.append(report)
        self._news.set()

    async def read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            if line.startswith(b"{"):
                self.add(json.loads(line))
            else:
                self.others.append(line.decode())
                self._news.set()

    async def until(self, seen: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(BOUND):
                while not (found := seen()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not seen in {BOUND} s; seen: {self.lines} {''.join(self.others)}") from None
        return found

    def of(self, token: str | None, kind: str) -> list[Any]:
        return [line[kind] for line in self.lines if line.get("token") == token and kind in line]

    async def first(self, token: str | None, kind: str) -> Any:
        return (await self.until(lambda: self.of(token, kind)))[0]

    async def handler(self, token: str, how: str) -> None:
        await self.until(lambda: how in self.of(token, "handler"))

    async def request_of(self, token: str) -> Any:
        await self.handler(token, "holds")
        return next(line["request"] for line in self.lines if line.get("token") == token and "request" in line)


@dataclass
class Process:
    """A wired server in a process of its own."""

    process: asyncio.subprocess.Process
    reports: Reports
    url: str = ""

    async def ended(self) -> int:
        async with asyncio.timeout(BOUND):
            return await self.process.wait()


@asynccontextmanager
async def process(*arguments: str, waits: bool = True, **pipes: Any) -> AsyncGenerator[Process]:
    """Over HTTP it is entered once the server listens, if it `waits`."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, *SERVER, *arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE, limit=2**24, **pipes
    )
    assert started.stderr is not None
    reports = Reports()
    reading = asyncio.create_task(reports.read(started.stderr))
    try:
        found = Process(started, reports)
        if arguments[0] == "http" and waits:
            line = await reports.until(lambda: next((o for o in reports.others if o.startswith("Listening on")), None))
            found.url = line.split()[-1] + "/mcp"
        yield found
    finally:
        with suppress(ProcessLookupError):
            started.kill()
        await started.wait()
        await reading


@dataclass
class Line:
    """An open connection of the official client to a wired server."""

    client: Client
    reports: Reports

    async def hold(self, token: str, timeout: float | None = None) -> asyncio.Task[Any]:
        """Call `hold`, and return when its handler runs."""
        call = asyncio.create_task(self.client.call_tool("hold", {"token": token}, read_timeout_seconds=timeout))
        await self.reports.handler(token, "holds")
        return call

    async def release(self, token: str) -> None:
        await self.client.call_tool("release", {"token": token})

    async def cancel(self, token: str, reason: str) -> None:
        request = await self.reports.request_of(token)
        params = CancelledNotificationParams(request_id=request, reason=reason)
        await self.client.session.send_notification(CancelledNotification(params=params))


Servers = dict[Transport, Process]
"""Running HTTP servers, which tests share: requests are told apart by their tokens."""


@asynccontextmanager
async def http_servers() -> AsyncGenerator[Servers]:
    async with process("http") as sse, process("http", "--json") as json_only:
        yield {"sse": sse, "json": json_only}


@asynccontextmanager
async def line(transport: Transport, era: Era, servers: Servers) -> AsyncGenerator[Line]:
    """A client of a wired server; leaving this is the client leaving."""
    if transport == "memory":
        reports = Reports()
        async with Client(WiredServer(reports.add).mcp, mode=MODE[era]) as client:
            yield Line(client, reports)
    elif transport == "stdio":
        async with reported_stderr() as (reports, stderr):
            parameters = StdioServerParameters(command=sys.executable, args=[*SERVER, "stdio"], cwd=ROOT)
            async with Client(stdio_client(parameters, errlog=stderr), mode=MODE[era]) as client:
                yield Line(client, reports)
    else:
        server = servers[transport]
        try:
            async with Client(server.url, mode=MODE[era]) as client:
                yield Line(client, server.reports)
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK's client trips over an answer that arrives while it leaves


@asynccontextmanager
async def reported_stderr() -> AsyncGenerator[tuple[Reports, Any]]:
    reading, writing = os.pipe()
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb"))
    reports = Reports()
    reader = asyncio.create_task(reports.read(stream))
    try:
        with os.fdopen(writing, "w") as stderr:
            yield reports, stderr
        await reader
    finally:
        transport.close()


class RawHttp:
    """HTTP by hand: a client that can let its connection drop."""

    def __init__(self, http: httpx.AsyncClient, url: str, era: Era) -> None:
        self._http = http
        self._url = url
        self._era: Era = era
        self.session: str | None = None
        self._last_id = 0

    async def open(self) -> None:
        if self._era == "stateless":
            return
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        reply = await self.post("initialize", params)
        self.session = reply.headers["mcp-session-id"]
        await self.post("notifications/initialized")

    async def call(self, tool: str, token: str, **arguments: Any) -> httpx.Response:
        return await self.post("tools/call", {"name": tool, "arguments": {"token": token, **arguments}})

    async def post(self, method: str, params: dict[str, Any] | None = None) -> httpx.Response:
        return await self._http.post(self._url, headers=self.headers(method, params), json=self.message(method, params))

    def stream(self, method: str, params: dict[str, Any]) -> Any:
        return self._http.stream(
            "POST", self._url, headers=self.headers(method, params), json=self.message(method, params)
        )

    def resume(self, last_event: str) -> Any:
        headers = {**self.headers("", None), "last-event-id": last_event, "accept": "text/event-stream"}
        return self._http.stream("GET", self._url, headers=headers)

    async def leave(self) -> httpx.Response:
        return await self._http.delete(self._url, headers=self.headers("", None))

    def message(self, method: str, params: dict[str, Any] | None) -> dict[str, Any]:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if not method.startswith("notifications/"):
            self._last_id += 1
            message["id"] = self._last_id
        params = dict(params or {})
        if self._era == "stateless":
            params["_meta"] = {PROTOCOL_VERSION_META_KEY: STATELESS, CLIENT_CAPABILITIES_META_KEY: {}}
        return {**message, "params": params}

    def headers(self, method: str, params: dict[str, Any] | None) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream"}
        if self._era == "stateless":
            headers |= {"mcp-protocol-version": STATELESS, "mcp-method": method}
            if params and "name" in params:
                headers["mcp-name"] = params["name"]
        elif self.session is not None:
            headers |= {"mcp-protocol-version": "2025-11-25", "mcp-session-id": self.session}
        return headers


@asynccontextmanager
async def raw_http(url: str, era: Era) -> AsyncGenerator[RawHttp]:
    async with httpx.AsyncClient(timeout=BOUND) as http:
        raw = RawHttp(http, url, era)
        await raw.open()
        yield raw
