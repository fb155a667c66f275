"""What counts as handed on stdio: the bytes were taken, not the message queued."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from typing import Any

from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

from tests.protocol.wired import STATELESS, Process, process

META: dict[str, Any] = {PROTOCOL_VERSION_META_KEY: STATELESS, CLIENT_CAPABILITIES_META_KEY: {}}


async def call(server: Process, request_id: int | str, tool: str, **arguments: Any) -> None:
    params: dict[str, Any] = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    assert server.process.stdin is not None
    server.process.stdin.write(json.dumps(message).encode() + b"\n")
    await server.process.stdin.drain()


async def answer(server: Process) -> dict[str, Any]:
    assert server.process.stdout is not None
    async with asyncio.timeout(10):
        return json.loads(await server.process.stdout.readline())


async def test_an_answer_that_nobody_reads_is_not_handed() -> None:
    reading, writing = os.pipe()
    async with process("stdio", stdin=PIPE, stdout=writing) as server:
        os.close(writing)
        await call(server, 1, "big", token="a")
        await server.reports.handler("a", "returned")
        await call(server, 2, "ordinary", token="b")
        await server.reports.handler("b", "holds")
        assert server.reports.of("a", "closed") == []
        os.close(reading)
        assert await server.reports.first("a", "closed") == {"handed": False, "gone": True}
        assert await server.ended() == 0


async def test_a_client_that_reads_no_more_can_still_end_the_input() -> None:
    reading, writing = os.pipe()
    async with process("stdio", stdin=PIPE, stdout=writing) as server:
        os.close(writing)
        await call(server, 1, "big", token="a")
        await server.reports.handler("a", "returned")
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert await server.reports.first("a", "closed") == {"handed": False, "gone": True}
        assert await server.ended() == 0
        os.close(reading)


async def test_an_answer_is_handed_even_if_the_client_closes_right_after_it() -> None:
    async with process("stdio", stdin=PIPE, stdout=PIPE) as server:
        await call(server, "7", "hold", token="a")
        await call(server, 8, "release", token="a")
        answers = [await answer(server), await answer(server)]
        assert {found["id"] for found in answers} == {"7", 8}
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert await server.ended() == 0
        assert server.reports.of("a", "closed") == [{"handed": True, "gone": False}]


async def test_lines_that_are_no_messages_are_passed_over() -> None:
    async with process("stdio", stdin=PIPE, stdout=PIPE) as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b'\n{"jsonrpc": "2.0"}\nnot JSON \xff\n[1]\n')
        await call(server, 1, "release", token="a")
        assert (await answer(server))["id"] == 1
