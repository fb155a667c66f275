"""Who is whom: a table of requests, asked of a server over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from mcp import Client
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from pydantic import AnyHttpUrl
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.engine import Principal
from perdure.protocol.callers import Caller, Doors, caller_of, is_loopback
from perdure.protocol.serve import address_of, listen, loopback_only
from tests.protocol.wired import Era, RawHttp

MACHINE, SESSION, NOBODY = "machine", "session:", None


class Tokens(TokenVerifier):
    """A token says who it is for: `client|issuer|subject`."""

    async def verify_token(self, token: str) -> AccessToken | None:
        client, issuer, subject = token.split("|")
        claims = {"iss": issuer} if issuer else None
        return AccessToken(token=token, client_id=client, scopes=["use"], subject=subject or None, claims=claims)


def by_header(connection: HTTPConnection) -> Principal | None:
    name = connection.headers.get("x-user")
    return None if name is None else Principal(name)


@dataclass
class Server:
    """How a server is set up, and who opened its socket."""

    bound_by_us: bool = True
    host_check: bool = True
    auth: bool = False
    principal: bool = False
    stateless_http: bool = False
    behind: str | None = None
    """The address that requests seem to come from."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[tuple[str, list[Caller]]]:
        seen: list[Caller] = []
        bound = listen("127.0.0.1", 0)
        addresses = [address_of(each) for each in bound]
        doors = Doors(
            bound=loopback_only(addresses) if self.bound_by_us else frozenset(),
            host_check=self.host_check,
            auth=self.auth,
            principal=by_header if self.principal else None,
        )

        async def who(ctx: Context[Any]) -> str:
            seen.append(caller_of(ctx.request_context, doors))
            return "noted"

        settings = AuthSettings(
            issuer_url=AnyHttpUrl("https://issuer.example"), resource_server_url=None, validate_token_resource=False
        )
        server = (
            MCPServer("callers", log_level="ERROR", token_verifier=Tokens(), auth=settings)
            if self.auth
            else MCPServer("callers", log_level="ERROR")
        )
        server.add_tool(who)
        app: ASGIApp = server.streamable_http_app(stateless_http=self.stateless_http)
        if self.behind is not None:
            app = Seeming(app, self.behind)
        runner = uvicorn.Server(uvicorn.Config(app, log_level="error", proxy_headers=False))
        serving = asyncio.create_task(runner.serve(bound))
        try:
            yield f"http://127.0.0.1:{addresses[0][1]}/mcp", seen
        finally:
            runner.should_exit = True
            await serving


class Seeming:
    """Makes a connection look as if it came from elsewhere."""

    def __init__(self, app: ASGIApp, client: str) -> None:
        self._app = app
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = (self._client, 40_000)
        await self._app(scope, receive, send)


@dataclass
class Row:
    what: str
    caller: str | None
    server: Server = field(default_factory=Server)
    headers: dict[str, str] = field(default_factory=dict[str, str])
    era: Era = "stateless"
    principal: Principal | None = None

    def __str__(self) -> str:
        return self.what


ANNA = Principal("anna", "https://issuer.example", "app", frozenset({"use"}))
ROBOT = Principal("", None, "robot", frozenset({"use"}))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


ROWS = [
    Row("loopback that we bound", MACHINE),
    Row("the same in a session", MACHINE, era="sessions"),
    *(
        Row(f"loopback with {name}", NOBODY, headers={name: value})
        for name, value in [
            ("Forwarded", "for=203.0.113.9"),
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-Host", "mcp.example"),
            ("x-forwarded-anything", ""),
            ("Via", "1.1 proxy"),
            ("X-Real-IP", "127.0.0.1"),
        ]
    ),
    Row("a session through a proxy", SESSION, headers={"X-Forwarded-For": "203.0.113.9"}, era="sessions"),
    Row("a client elsewhere", NOBODY, Server(behind="192.0.2.7")),
    Row("a session of a client elsewhere", SESSION, Server(behind="192.0.2.7"), era="sessions"),
    Row("a client without an address", NOBODY, Server(behind="")),
    Row("the other loopback family", MACHINE, Server(behind="::1")),
    Row("loopback in the other family's notation", MACHINE, Server(behind="::ffff:127.0.0.1")),
    Row("a socket that somebody else bound", NOBODY, Server(bound_by_us=False)),
    Row("no host check", NOBODY, Server(host_check=False)),
    Row("an invented session in the stateless era", NOBODY, Server(bound_by_us=False), {"mcp-session-id": "a"}),
    Row(
        "an invented session without sessions",
        NOBODY,
        Server(bound_by_us=False, stateless_http=True),
        {"mcp-session-id": "a", "mcp-protocol-version": "2025-11-25"},
        "sessions",
    ),
    Row("a token", ANNA.caller, Server(auth=True), bearer("app|https://issuer.example|anna"), principal=ANNA),
    Row("a token of a client alone", ROBOT.caller, Server(auth=True), bearer("robot||"), principal=ROBOT),
    Row("a token in a session", ROBOT.caller, Server(auth=True), bearer("robot||"), "sessions", ROBOT),
    Row("what principal= makes of it", Principal("eve").caller, Server(principal=True), {"x-user": "eve"}),
    Row("a stranger to principal=", NOBODY, Server(principal=True)),
    Row("a stranger to principal= in a session", SESSION, Server(principal=True), era="sessions"),
    Row("a token where principal= decides", NOBODY, Server(auth=True, principal=True), bearer("robot||")),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_request_is_of(row: Row) -> None:
    async with row.server.running() as (url, seen), httpx.AsyncClient(headers=row.headers, timeout=10) as http:
        raw = RawHttp(http, url, row.era)
        if not row.server.stateless_http:
            await raw.open()
        reply = await raw.post("tools/call", {"name": "who", "arguments": {}})
        assert reply.status_code == 200
    (caller,) = seen
    if row.caller == SESSION:
        assert caller == Caller(f"session:{raw.session}")
    else:
        assert caller.id == row.caller
    if row.principal is not None:
        assert caller.principal == row.principal


async def test_each_message_of_a_connection_is_of_its_own_token() -> None:
    async with Server(auth=True).running() as (url, seen), httpx.AsyncClient(timeout=10) as http:
        raw = RawHttp(http, url, "stateless")
        for name in "anna", "bert":
            http.headers["authorization"] = f"Bearer app||{name}"
            await raw.post("tools/call", {"name": "who", "arguments": {}})
    assert [caller.principal and caller.principal.subject for caller in seen] == ["anna", "bert"]


async def test_a_proxy_that_speaks_http_1_0_as_nginx_does_is_seen() -> None:
    async with Server().running() as (url, seen), httpx.AsyncClient() as http:
        raw = RawHttp(http, url, "stateless")
        params: dict[str, Any] = {"name": "who", "arguments": {}}
        request = http.build_request(
            "POST", url, headers=raw.headers("tools/call", params), json=raw.message("tools/call", params)
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name != "connection")
        reading, writing = await asyncio.open_connection("127.0.0.1", request.url.port)
        writing.write(f"POST /mcp HTTP/1.0\r\n{head}\r\n".encode() + request.content)
        async with asyncio.timeout(10):
            assert b"200 OK" in await reading.readline()
            await reading.read()
        writing.close()
    assert seen == [Caller(None)]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("doors", [Doors(), Doors(auth=True), Doors(principal=by_header)], ids=["open", "auth", "own"])
async def test_who_calls_in_memory_is_the_machines_own_user(mode: str, doors: Doors) -> None:
    seen: list[Caller] = []
    server = MCPServer("callers")

    async def who(ctx: Context[Any]) -> None:
        seen.append(caller_of(ctx.request_context, doors))

    server.add_tool(who)
    async with Client(server, mode=mode) as client:
        await client.call_tool("who", {})
    assert seen == [Caller("machine")]


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("localhost", False),
    ],
)
def test_only_an_address_of_this_machine_is_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own
