"""How a stdio server ends: in time, in order, with nothing but protocol on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.protocol.test_wire_stdio import answer, call
from tests.protocol.wired import MODE, ROOT, SERVER, Era, Process, process, reported_stderr

PROMISED = 2.0
SLACK = 1.0

ENDS = ["end of input", "closed stdout", "SIGTERM", "SIGINT"]


async def end(server: Process, how: str, reading: int, code: int = 0) -> None:
    """End it, which must take no longer than was promised."""
    began = time.monotonic()
    match how:
        case "end of input":
            assert server.process.stdin is not None
            server.process.stdin.close()
        case "closed stdout":
            os.close(reading)
        case _:
            server.process.send_signal(getattr(signal, how))
    assert await server.ended() == code
    assert time.monotonic() - began < PROMISED + SLACK


@pytest.mark.parametrize("how", ENDS)
async def test_it_ends_in_time_and_in_order_while_requests_wait(how: str) -> None:
    reading, writing = os.pipe()
    async with process("stdio", stdin=PIPE, stdout=writing) as server:
        os.close(writing)
        await call(server, 1, "hold", token="a")
        await call(server, 2, "ordinary", token="b")
        await server.reports.handler("a", "holds")
        await server.reports.handler("b", "holds")
        await end(server, how, reading)
        lives = [line["life"] for line in server.reports.lines if "life" in line]
        assert lives == ["entered", "draining", "exited", "returned"]
        (closed,) = server.reports.of("a", "closed")
        assert closed == {"handed": False, "gone": how in ("end of input", "closed stdout")}


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
async def test_a_request_that_waits_is_told_to_ask_again(how: str) -> None:
    async with process("stdio", stdin=PIPE, stdout=PIPE) as server:
        await call(server, 1, "hold", token="a")
        await server.reports.handler("a", "holds")
        server.process.send_signal(getattr(signal, how))
        assert "Ask again" in (await answer(server))["error"]["message"]
        assert await server.ended() == 0


@pytest.mark.parametrize("how", ENDS)
async def test_a_lifespan_that_does_not_end_is_left_behind_in_time(how: str) -> None:
    reading, writing = os.pipe()
    async with process("stdio", "--hang", "lifespan", stdin=PIPE, stdout=writing) as server:
        os.close(writing)
        await server.reports.until(lambda: {"life": "entered"} in server.reports.lines)
        await end(server, how, reading, code=1)


async def test_a_blocked_loop_does_not_outlive_its_signal() -> None:
    async with process("stdio", "--hang", "loop", stdin=PIPE, stdout=DEVNULL) as server:
        await server.reports.until(lambda: {"life": "entered"} in server.reports.lines)
        await end(server, "SIGTERM", -1, code=1)


async def test_a_thread_at_work_does_not_keep_the_process() -> None:
    async with process("stdio", "--hang", "thread", stdin=PIPE, stdout=DEVNULL) as server:
        await server.reports.until(lambda: {"life": "entered"} in server.reports.lines)
        await end(server, "SIGTERM", -1)
        assert {"life": "exited"} in server.reports.lines


async def test_nothing_but_protocol_reaches_stdout() -> None:
    async with process("stdio", stdin=PIPE, stdout=PIPE) as server:
        await call(server, 1, "chatter")
        assert (await answer(server))["id"] == 1
        assert server.process.stdin is not None
        assert server.process.stdout is not None
        server.process.stdin.close()
        rest = await server.process.stdout.read()
        assert [json.loads(line) for line in rest.splitlines()] == []
        assert await server.ended() == 0
        said = "".join(server.reports.others)
        for words in "a line that a lifespan prints", "to stdout from Python", "to stdout from a child":
            assert words in said


async def test_what_fails_at_the_start_is_the_exit_of_the_process() -> None:
    async with process("stdio", "--hang", "start", stdin=PIPE, stdout=DEVNULL) as server:
        assert await server.ended() == 1
        assert any("no start today" in line for line in server.reports.others)


@pytest.mark.parametrize("era", ["sessions", "stateless"])
async def test_the_official_client_ends_it_without_a_signal(era: Era) -> None:
    async with reported_stderr() as (reports, stderr):
        parameters = StdioServerParameters(command=sys.executable, args=[*SERVER, "stdio"], cwd=ROOT)
        async with Client(stdio_client(parameters, errlog=stderr), mode=MODE[era]) as client:
            result: Any = await client.call_tool("release", {"token": "a"})
            assert not result.is_error
    lives = [line["life"] for line in reports.lines if "life" in line]
    assert lives == ["entered", "draining", "exited", "returned"]
