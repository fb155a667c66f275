"""Durable servers over HTTP that end and start again, or share a file."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from perdure.protocol.gateway import CALL_ID
from perdure.protocol.serve import HTTP_GRACE
from tests.protocol.asking import calls_of, text, with_key
from tests.protocol.lives import SLACK, Lives, said
from tests.protocol.lives_server import go
from tests.protocol.wired import MODE, STATELESS, Era, RawHttp

pytestmark = pytest.mark.slow


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


# --- ends and starts ------------------------------------------------------------------------------


async def test_requests_that_wait_at_the_end_are_told_and_get_the_outcome_from_the_next_process(lives: Lives) -> None:
    async with (
        lives.process("http") as server,
        Client(server.url, mode=MODE["sessions"]) as session,  # keeps a GET stream open
        Client(server.url, mode=MODE["stateless"]) as stateless,
        stateless.listen(tools_list_changed=True),
    ):
        waiting = {
            token: asyncio.create_task(client.call_tool("wait", {"token": token}))
            for client, token in ((session, "a"), (stateless, "b"))
        }
        for token in waiting:
            await lives.effect(f"{token} begun")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        told: dict[str, Any] = {}
        for token, request in waiting.items():
            with pytest.raises(MCPError, match="Ask again") as error:
                await request
            told[token] = error.value.error.data[CALL_ID]
        assert await server.ended() == 0
        assert time.monotonic() - began < HTTP_GRACE.total_seconds() / 2 + SLACK
    async with (
        lives.here(work=False) as observer,
        lives.process("http") as server,
        Client(server.url, mode=STATELESS) as client,
    ):
        for token, call in told.items():
            await observer.calls.signal(call, go, "went on")
            assert text(await client.call_tool("wait", {"token": token})) == f"{token} went on"
        assert sorted(await calls_of(observer)) == sorted((call, "completed") for call in told.values())
    assert sorted(lives.effects()) == ["a begun", "a ended", "b begun", "b ended"]


# --- keys -----------------------------------------------------------------------------------------


async def test_a_hundred_who_ask_two_processes_for_one_key_get_one_execution(lives: Lives) -> None:
    async with (
        lives.process("http") as one,
        lives.process("http") as other,
        httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=100)) as http,
    ):
        clients = [RawHttp(http, server.url, "stateless") for server in (one, other) for _ in range(50)]
        params = {"name": "ours", "arguments": {"what": "report"}}
        replies = await asyncio.gather(*(client.post("tools/call", params) for client in clients))
    answers = [said(reply) for reply in replies]
    assert len(answers) == 100
    assert len(set(answers)) == 1
    assert lives.effects() == ["ours report"]


@pytest.mark.parametrize("era", ["sessions", "stateless"])
async def test_what_a_client_repeats_is_given_once(era: Era, lives: Lives) -> None:
    async with lives.process("http") as server, Client(server.url, mode=MODE[era]) as client:
        # One idempotency key: one call and one outcome, a failure too.
        paid = [await client.call_tool("pay", {"amount": 1}, meta=with_key("first")) for _ in range(2)]
        assert [text(each) for each in paid] == ["paid 1"] * 2
        failed = [await client.call_tool("pay", {"amount": -4711}, meta=with_key("second")) for _ in range(2)]
        assert [(each.is_error, "-4711 is no amount" in text(each)) for each in failed] == [(True, True)] * 2
        assert lives.effects() == ["paid 1", "paid -4711"]
        # With other arguments it is a conflict, which shows nobody's arguments.
        for tool, mine, other in (
            ("pay", {"amount": -4711}, {"amount": 2}),
            ("mine", {"what": "x", "amount": -4711}, {"what": "x", "amount": 2}),
        ):
            meta = with_key("second") if tool == "pay" else None
            await client.call_tool(tool, mine, meta=meta)
            conflict = await client.call_tool(tool, other, meta=meta)
            assert conflict.is_error
            assert "other arguments" in text(conflict)
            assert "4711" not in text(conflict)
        # Without a key, an answer that was given is not given again.
        for _ in range(2):
            assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3"
        assert lives.effects().count("paid 3") == 2
