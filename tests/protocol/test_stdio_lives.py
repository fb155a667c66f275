"""A durable server over stdio lives as long as its client wants, and its calls longer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

from tests.protocol.asking import asked, calls_of, status_of, text
from tests.protocol.lives import SLACK, Lives, LivesProcess
from tests.protocol.lives_server import go
from tests.protocol.wired import MODE, ROOT, STATELESS, Era

pytestmark = pytest.mark.slow

PROMISED = 2.0
META: dict[str, Any] = {PROTOCOL_VERSION_META_KEY: STATELESS, CLIENT_CAPABILITIES_META_KEY: {}}


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


def line(request_id: int, tool: str, **arguments: Any) -> bytes:
    params: dict[str, Any] = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def send(server: LivesProcess, lines: bytes) -> None:
    assert server.process.stdin is not None
    server.process.stdin.write(lines)


# --- killed by its client -------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["sessions", "stateless"])
async def test_a_client_that_kills_its_server_and_starts_it_again_gets_the_result(era: Era, lives: Lives) -> None:
    def launched() -> Client:
        parameters = StdioServerParameters(command=sys.executable, args=lives.arguments("stdio"), cwd=ROOT)
        return Client(stdio_client(parameters), mode=MODE[era])

    call = ""
    async with lives.here(work=False) as observer:
        with suppress(Exception):  # what a client says of a server that is killed under it
            async with launched() as client, asked(client.call_tool("wait", {"token": "a"})):
                call = await lives.recorded(observer)
                os.kill(child_of_this_process(), signal.SIGKILL)
        await observer.calls.signal(call, go, "went on")
        async with launched() as client:
            await lives.effect("a ended")  # it goes on by itself
            assert text(await client.call_tool("wait", {"token": "a"})) == "a went on"
        assert await calls_of(observer) == [(call, "completed")]
    assert lives.effects() == ["a begun", "a ended"]


def child_of_this_process() -> int:
    """The one server that runs: its client does not tell."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = [int(pid) for each in children for pid in each.read_text().split()]
    (server,) = [pid for pid in found if b"lives_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return server


# --- its output -----------------------------------------------------------------------------------


async def test_nothing_but_protocol_reaches_stdout_whatever_tools_and_their_children_print(lives: Lives) -> None:
    async with lives.process("stdio", stdin=PIPE, stdout=PIPE) as server:
        send(server, line(1, "chatter") + line(2, "chat_in_a_body") + b"no message\n")
        assert server.process.stdout is not None
        answers = [json.loads(await server.process.stdout.readline()) for _ in range(2)]
        assert server.process.stdin is not None
        server.process.stdin.close()
        rest = await server.process.stdout.read()
        assert await server.ended() == 0
    assert {answer["id"] for answer in answers if answer["result"]["content"][0]["text"] == "said"} == {1, 2}
    assert [json.loads(each) for each in rest.splitlines()] == []
    said = "".join(server.reports.others)
    for words in "printed by a tool", "printed by a body", "printed by a child":
        assert words in said


# --- its ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end of input", "closed stdout", "SIGTERM", "SIGINT"])
async def test_it_ends_in_time_and_the_next_process_finishes_what_ran(how: str, lives: Lives) -> None:
    reading, writing = os.pipe()
    async with lives.process("stdio", stdin=PIPE, stdout=writing) as server:
        os.close(writing)
        send(server, line(1, "wait", token="a"))
        await lives.effect("a begun")
        began = time.monotonic()
        match how:
            case "end of input":
                assert server.process.stdin is not None
                server.process.stdin.close()
            case "closed stdout":
                os.close(reading)
            case _:
                server.process.send_signal(getattr(signal, how))
        assert await server.ended() == 0
        assert time.monotonic() - began < PROMISED + SLACK
        if how.startswith("SIG"):
            assert b"Ask again" in os.read(reading, 65_536)
    async with lives.here() as mcp:
        call = await lives.only_call(mcp)
        await mcp.calls.signal(call, go, "went on")
        await status_of(mcp, call, "completed")
        assert text(await mcp.call_tool("wait", {"token": "a"})) == "a went on"  # as nobody was told
        assert await calls_of(mcp) == [(call, "completed")]
    assert lives.effects() == ["a begun", "a ended"]
    if how != "closed stdout":
        os.close(reading)


# --- cancellations that are early -----------------------------------------------------------------


async def test_a_cancellation_right_behind_its_request_stops_the_call(lives: Lives) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "stop"}}
    async with lives.here(work=False) as observer, lives.process("stdio", stdin=PIPE, stdout=PIPE) as server:
        send(server, line(1, "wait", token="a") + json.dumps(note).encode() + b"\n" + line(2, "pay", amount=1))
        assert server.process.stdout is not None
        assert json.loads(await server.process.stdout.readline())["id"] == 2
        # It may never have become a call; one that nobody stops would wait for ever.
        for call, _ in await calls_of(observer, "wait"):
            await status_of(observer, call, "cancelled")


async def test_a_cancellation_of_a_request_that_never_came_stops_nothing_else(lives: Lives) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7, "reason": "stop"}}
    async with lives.process("stdio", stdin=PIPE, stdout=PIPE) as server:
        send(server, json.dumps(note).encode() + b"\n" + line(1, "pay", amount=1))
        assert server.process.stdout is not None
        assert "paid 1" in (await server.process.stdout.readline()).decode()
