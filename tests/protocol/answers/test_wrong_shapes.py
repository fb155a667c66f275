"""Answers on a session that are none, written by hand: the official client does not send them."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.protocol.answers.house import SERVER
from tests.protocol.answers.table import Kind
from tests.protocol.asking import BOUND
from tests.protocol.wired import ROOT

pytestmark = pytest.mark.slow

Message = dict[str, Any]


@dataclass
class Wire:
    process: asyncio.subprocess.Process
    _last_id: int = 0

    async def open(self) -> None:
        client = {"name": "raw", "version": "1"}
        capabilities: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client}
        await self.reply_to(await self.request("initialize", params))
        await self.send({"method": "notifications/initialized"})

    async def request(self, method: str, params: Message) -> int:
        self._last_id += 1
        await self.send({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    async def decide(self, token: str, kind: Kind) -> int:
        return await self.request("tools/call", {"name": "decide", "arguments": {"token": token, "kind": kind}})

    async def send(self, message: Message) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        await self.process.stdin.drain()

    async def reply_to(self, request: int) -> Message:
        return (await self._next(lambda message: message.get("id") == request))["result"]

    async def question(self) -> str:
        return (await self._next(lambda message: "method" in message and "id" in message))["id"]

    async def _next(self, wanted: Callable[[Message], bool]) -> Message:
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND):
            while True:
                message = json.loads(await self.process.stdout.readline())
                if wanted(message):
                    return message


@pytest.fixture(scope="module")
async def wire(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Wire]:
    folder = tmp_path_factory.mktemp("shapes")
    command = [sys.executable, *SERVER, "stdio", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        wire = Wire(process)
        await wire.open()
        yield wire
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


WRONG: list[Any] = [
    {},
    {"action": "perhaps"},
    {"action": None},
    {"action": "accept", "content": "yes"},
    {"action": "accept", "content": {"by": {"name": "ann"}}},
    {"role": "assistant"},
]


def said(reply: Message) -> str:
    (block,) = reply["content"]
    return block["text"]


@pytest.mark.parametrize("answer", WRONG, ids=json.dumps)
@pytest.mark.parametrize("kind", ["form", "url"])
async def test_it_counts_as_dismissed_by_a_person(wire: Wire, kind: Kind, answer: Any) -> None:
    token = f"{kind} {json.dumps(answer)}"
    request = await wire.decide(token, kind)
    await wire.send({"id": await wire.question(), "result": answer})
    assert said(await wire.reply_to(request)) == f"{token}: cancel"


@pytest.mark.parametrize("answer", [*WRONG, {"role": "assistant", "content": "ann"}], ids=json.dumps)
async def test_where_a_model_was_asked_the_client_has_not_asked_it(wire: Wire, answer: Any) -> None:
    request = await wire.decide(f"sampling {json.dumps(answer)}", "sampling")
    await wire.send({"id": await wire.question(), "result": answer})
    reply = await wire.reply_to(request)
    assert reply["isError"]
    assert "The client did not ask its model" in said(reply)


@pytest.mark.parametrize("result", [[], None, "yes"], ids=json.dumps)
async def test_what_is_no_response_at_all_leaves_the_question_open(wire: Wire, result: Any) -> None:
    token = f"no response {json.dumps(result)}"
    request = await wire.decide(token, "form")
    question = await wire.question()
    for said_so in (result, {"action": "accept", "content": {"by": "ann"}}):
        await wire.send({"id": question, "result": said_so})
    assert said(await wire.reply_to(request)) == f"{token}: ann"


async def test_answers_that_were_not_asked_for_and_second_ones_are_nobodys(wire: Wire) -> None:
    request = await wire.decide("twice", "form")
    question = await wire.question()
    await wire.send({"id": "question-of-nobody", "result": {"action": "accept", "content": {"by": "mallory"}}})
    for by in ("ann", "mallory"):
        await wire.send({"id": question, "result": {"action": "accept", "content": {"by": by}}})
    assert said(await wire.reply_to(request)) == "twice: ann"
