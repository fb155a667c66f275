"""The rules of the wire, and the corners of HTTP where an answer is easily taken for handed."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from perdure.protocol.wire import Wire, WireMiddleware, Wires, wants_cancel
from tests.protocol.wired import Process, Servers, http_servers, raw_http


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Servers]:
    async with http_servers() as servers:
        yield servers


@pytest.fixture
def sse(servers: Servers) -> Process:
    return servers["sse"]


@pytest.fixture
def token() -> str:
    return uuid4().hex


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        (None, False),
        ("", False),
        ("  ", False),
        ("timed out after 0.5s", False),
        ("McpError: MCP error -32001: Request timed out", False),
        ("SdkError: Request timed out", False),
        ("TimeoutError: The operation was aborted due to timeout", False),
        ("request time-out", False),
        ("time out", False),
        ("caller cancelled", False),
        ("AbortError: This operation was aborted", True),
        ("User requested cancellation", True),
        ("the caller cancelled the order", True),
    ],
)
def test_a_reason_tells_a_wish_from_a_clock(reason: str | None, wanted: bool) -> None:
    assert wants_cancel(reason) is wanted


def test_the_first_word_on_an_exchange_counts() -> None:
    closed: list[bool] = []
    wire = Wire()
    wire.on_close(closed.append)
    wire.close(handed=False)
    wire.close(handed=True)
    wire.leave()
    wire.on_close(closed.append)
    assert closed == [False, False]
    assert not wire.gone


async def test_who_waits_for_a_client_to_leave_hears_of_it() -> None:
    wire = Wire()
    waiting = asyncio.create_task(wire.wait_gone())
    await asyncio.sleep(0)
    wire.leave()
    async with asyncio.timeout(5):
        await waiting
        await wire.wait_gone()


async def test_an_answer_over_a_resumed_stream_is_handed_to_its_request(sse: Process, token: str) -> None:
    async with raw_http(sse.url, "sessions") as client, raw_http(sse.url, "stateless") as other:
        arguments = {"name": "hold", "arguments": {"token": token}}
        async with client.stream("tools/call", arguments) as stream:
            event = await anext(line async for line in stream.aiter_lines() if line.startswith("id:"))
            await sse.reports.handler(token, "holds")
        assert await sse.reports.first(token, "closed") == {"handed": False, "gone": True}
        async with client.resume(event.removeprefix("id: ")) as resumed:
            await other.call("release", token)
            await anext(line async for line in resumed.aiter_lines() if '"result"' in line)
        assert await sse.reports.first(token, "resumed")


@pytest.mark.parametrize("transport", ["sse", "json"])
async def test_a_session_that_ends_under_a_request_hands_nothing(servers: Servers, transport: str, token: str) -> None:
    server = servers["json" if transport == "json" else "sse"]
    async with raw_http(server.url, "sessions") as client:
        call = asyncio.create_task(client.call("hold", token))
        await server.reports.handler(token, "holds")
        await client.leave()
        reply = await call
        assert '"result"' not in reply.text
        assert await server.reports.first(token, "closed") == {"handed": False, "gone": False}


async def test_a_cancellation_of_a_foreign_session_is_not_heard(sse: Process, token: str) -> None:
    async with raw_http(sse.url, "sessions") as client, raw_http(sse.url, "sessions") as stranger:
        call = asyncio.create_task(client.call("hold", token))
        request = await sse.reports.request_of(token)
        note = {"requestId": request, "reason": "for fun"}
        own, stranger.session = stranger.session, "invented"
        assert (await stranger.post("notifications/cancelled", note)).status_code == 404
        stranger.session = own
        await stranger.post("notifications/cancelled", note)
        await stranger.call("release", token)
        await call
        assert await sse.reports.first(token, "closed") == {"handed": True, "gone": False}
        assert sse.reports.of(token, "cancel") == []


async def test_an_answer_that_is_compressed_on_its_way_is_handed() -> None:
    closed: list[bool] = []

    async def answer(request: Request) -> Response:
        request.scope["perdure.wire"].on_close(closed.append)
        await request.body()
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {"text": "long " * 1000}})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    app.add_middleware(GZipMiddleware)
    body = await post(WireMiddleware(app, Wires()))
    assert b"long" in gzip.decompress(body)
    assert closed == [True]


async def test_a_client_that_left_while_the_loop_was_busy_is_not_handed_its_answer() -> None:
    closed: list[bool] = []
    answered = asyncio.Event()

    async def answer(request: Request) -> Response:
        await request.body()
        wire: Wire = request.scope["perdure.wire"]
        wire.on_close(closed.append)
        wire.on_close(lambda _: answered.set())
        await asyncio.sleep(0)  # the reader of the connection begins
        client.close()  # the kernel knows at once, the loop some turns later
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {}})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(WireMiddleware(app, Wires()), lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{}")
            async with asyncio.timeout(10):
                await answered.wait()
        server.should_exit = True
        await serving
    assert closed == [False]


async def test_an_application_that_fails_hands_nothing() -> None:
    closed: list[bool] = []

    async def fail(request: Request) -> Response:
        request.scope["perdure.wire"].on_close(closed.append)
        raise LookupError

    with pytest.raises(LookupError):
        await post(WireMiddleware(Starlette(routes=[Route("/", fail, methods=["POST"])]), Wires()))
    assert closed == [False]


async def post(app: WireMiddleware) -> bytes:
    """One request as a server that speaks HTTP would make it, of a client that stays."""
    body = bytearray()
    incoming = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        return incoming.pop() if incoming else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))

    headers = [(b"accept-encoding", b"gzip"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    return bytes(body)
