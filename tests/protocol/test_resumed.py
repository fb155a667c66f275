"""Answers that reach their clients over another connection than the one that asked: `Last-Event-ID`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp_types import JSONRPCResponse
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse

from perdure import DurableContext, DurableMCP, Principal, Signal
from tests.protocol.asking import calls_of, status_of, until
from tests.protocol.mounted import mounted
from tests.protocol.wired import BOUND, RawHttp
from tests.protocol.wired_server import Events

go = Signal("go", str)


class House:
    """A file and a store of events, and servers that come and go on them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._events = Events()

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[tuple[DurableMCP[Any], str]]:
        mcp = DurableMCP[Any]("resumed", engine=self._file, log_level="CRITICAL", principal=_ann)

        @mcp.tool(signals=[go])
        async def wait(token: str, ctx: DurableContext) -> str:
            word = await ctx.receive(go)
            while word == "spin":
                await asyncio.sleep(0)
            return f"{token} {word}"

        @mcp.custom_route("/kept", methods=["GET"])
        async def kept(request: Request) -> Response:
            """What is left of a session whose process is gone: its events."""
            sent: list[str] = []

            async def send(event: Any) -> None:
                message: JSONRPCResponse = event.message
                sent.append(f"event: message\ndata: {message.model_dump_json(by_alias=True, exclude_none=True)}\n\n")

            await self._events.replay_events_after(request.headers["last-event-id"], send)
            return StreamingResponse(iter(sent), media_type="text/event-stream")

        async with mounted(mcp, event_store=self._events) as url:
            yield mcp, url


def _ann(_: HTTPConnection) -> Principal:
    return Principal("ann")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "calls.db")


@asynccontextmanager
async def client(url: str) -> AsyncGenerator[RawHttp]:
    async with httpx.AsyncClient(timeout=BOUND) as http:
        raw = RawHttp(http, url, "sessions")
        await raw.open()
        yield raw


async def ask_and_leave(mcp: DurableMCP[Any], asker: RawHttp) -> tuple[str, str]:
    """The call of a request that lost its connection, and the event after which it can be resumed."""
    before = len(await calls_of(mcp))
    async with asker.stream("tools/call", {"name": "wait", "arguments": {"token": "a"}}) as stream:
        event = await anext(line async for line in stream.aiter_lines() if line.startswith("id:"))

        async def is_there() -> bool:
            return len(await calls_of(mcp)) > before

        await until(is_there)
    return (await calls_of(mcp))[-1][0], event.removeprefix("id: ")


async def read(resumed: httpx.Response, word: str) -> dict[str, Any]:
    line = await anext(line async for line in resumed.aiter_lines() if word in line)
    return json.loads(line.removeprefix("data:"))


async def ask_again(mcp: DurableMCP[Any], asker: RawHttp, *, makes: int) -> None:
    """The same once more: how many calls there are then."""
    async with asker.stream("tools/call", {"name": "wait", "arguments": {"token": "a"}}):

        async def as_expected() -> bool:
            return len(await calls_of(mcp)) == makes

        await until(as_expected)


async def test_an_answer_over_a_resumed_stream_is_not_given_again(house: House) -> None:
    async with house.server() as (mcp, url), client(url) as asker:
        call, event = await ask_and_leave(mcp, asker)
        async with asker.resume(event) as resumed:
            await mcp.calls.signal(call, go, "went on")
            answer = await read(resumed, '"result"')
        assert answer["result"]["content"][0]["text"] == "a went on"
        await ask_again(mcp, asker, makes=2)


async def test_an_answer_that_nobody_came_back_for_is_adopted(house: House) -> None:
    async with house.server() as (mcp, url), client(url) as asker:
        call, _ = await ask_and_leave(mcp, asker)
        await mcp.calls.signal(call, go, "went on")
        await status_of(mcp, call, "completed")
        reply = await asker.call("wait", "a")
        assert "a went on" in reply.text
        assert await calls_of(mcp) == [(call, "completed")]


async def test_what_a_resumed_stream_says_of_a_stuck_call_is_no_answer(house: House) -> None:
    async with house.server() as (mcp, url), client(url) as asker:
        call, event = await ask_and_leave(mcp, asker)
        async with asker.resume(event) as resumed:
            await mcp.calls.signal(call, go, "spin")
            told = await read(resumed, '"result"')
        assert "is stuck" in told["result"]["content"][0]["text"]
        assert call in (await asker.call("wait", "a")).text
        assert await calls_of(mcp) == [(call, "stuck")]


async def test_an_answer_that_outlived_its_server_is_not_given_again(house: House) -> None:
    async with house.server() as (mcp, url), client(url) as asker:
        call, event = await ask_and_leave(mcp, asker)
        session = asker.session
        await mcp.calls.signal(call, go, "went on")
        await status_of(mcp, call, "completed")
    async with house.server() as (mcp, url), client(url) as asker:
        headers = {"mcp-session-id": session or "", "last-event-id": event}
        async with httpx.AsyncClient() as http, http.stream("GET", f"{url}kept", headers=headers) as resumed:
            answer = await read(resumed, '"result"')
        assert answer["result"]["content"][0]["text"] == "a went on"
        await ask_again(mcp, asker, makes=2)
