"""Servers that are killed while they ask: a new one on the same file goes on, and each answer counts once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import InputRequiredResult

from tests.protocol.asking import calls_of, text
from tests.protocol.questioned import House, Person, house_of, yes

pytestmark = pytest.mark.slow

each_transport = pytest.mark.parametrize("transport", ["stdio", "sse", "json"])
each_session = pytest.mark.parametrize("transport", ["stdio", "sse"])
KEPT = ["works", "paid 3"]
"""What is done, once, however often its server dies."""


@pytest.fixture
async def stateless(tmp_path: Path, transport: Any) -> AsyncGenerator[House]:
    async with house_of(tmp_path, transport, "stateless") as house:
        yield house


@pytest.fixture
async def sessions(tmp_path: Path, transport: Any) -> AsyncGenerator[House]:
    async with house_of(tmp_path, transport, "sessions") as house:
        yield house


@asynccontextmanager
async def doomed(house: House, person: Person) -> AsyncGenerator[Client]:
    """A client whose server is to be killed; what the client makes of that is not looked at."""
    died: BaseException | None = None
    try:
        async with house.served_client(person) as client:
            yield client
    except (Exception, asyncio.CancelledError) as error:
        died = error
    if not house.was_killed:
        raise AssertionError("it did not come to that") from died


async def round_of(client: Client, state: str | None = None, by: str | None = None) -> Any:
    answers: Any = None if by is None else {"approve": yes(by)}
    return await client.session.call_tool(
        "pay", {"amount": 3}, allow_input_required=True, request_state=state, input_responses=answers
    )


async def asked_for_state(client: Client) -> str:
    asked = await round_of(client)
    assert isinstance(asked, InputRequiredResult)
    assert asked.request_state is not None
    return asked.request_state


class Abandoned:
    """A request whose server is about to die."""

    def __init__(self, asking: Any) -> None:
        async def ask() -> None:
            with suppress(MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                await asking

        self.task = asyncio.create_task(ask())

    async def over(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


# --- the stateless era ----------------------------------------------------------------------------


@each_transport
async def test_between_question_and_answer_the_state_leads_back(stateless: House) -> None:
    async with doomed(stateless, Person()) as client:
        state = await asked_for_state(client)
        await stateless.kill()
    async with stateless.served_client(Person()) as client:
        assert text(await round_of(client, state, "ann")) == "paid 3, by ann"
    assert stateless.effects == KEPT
    assert len(await calls_of(stateless.mcp)) == 1


@each_transport
async def test_between_answer_and_result_the_same_state_gets_it(stateless: House) -> None:
    stateless.hold("work")
    async with doomed(stateless, Person()) as client:
        state = await asked_for_state(client)
        request = Abandoned(round_of(client, state, "ann"))
        await stateless.effect("works")
        await stateless.kill()
        await request.over()
    stateless.release("work")
    async with stateless.served_client(Person()) as client:
        assert text(await round_of(client, state, "mallory")) == "paid 3, by ann"
    assert stateless.effects == ["works", *KEPT]  # a step that was interrupted runs again
    assert len(await calls_of(stateless.mcp)) == 1


@each_transport
async def test_after_the_result_and_before_the_reply_the_same_state_gets_it(stateless: House) -> None:
    stateless.hold("reply")
    async with doomed(stateless, Person()) as client:
        state = await asked_for_state(client)
        request = Abandoned(round_of(client, state, "ann"))
        await stateless.ended()
        await stateless.kill()
        await request.over()
    stateless.release("reply")
    async with stateless.served_client(Person()) as client:
        assert text(await round_of(client, state, "mallory")) == "paid 3, by ann"
    assert stateless.effects == KEPT
    assert len(await calls_of(stateless.mcp)) == 1


@each_transport
async def test_a_question_that_got_lost_is_asked_again_by_the_same_call(stateless: House) -> None:
    stateless.hold("question")
    async with doomed(stateless, Person()) as client:
        request = Abandoned(round_of(client))
        await stateless.asks()
        await stateless.kill()
        await request.over()
    stateless.release("question")
    person = Person()
    async with stateless.served_client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert person.asked == ["Pay 3?"]
    assert len(await calls_of(stateless.mcp)) == 1


@each_transport
async def test_a_lost_reply_is_found_without_its_state_too(stateless: House) -> None:
    """A client that never had the state asks again, and adopts its own call."""
    stateless.hold("reply")
    async with doomed(stateless, Person()) as client:
        request = Abandoned(client.call_tool("pay", {"amount": 3}))
        await stateless.ended()
        await stateless.kill()
        await request.over()
    stateless.release("reply")
    person = Person()
    async with stateless.served_client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert person.asked == []
    assert stateless.effects == KEPT


# --- the era of sessions --------------------------------------------------------------------------


@each_session
async def test_between_question_and_answer_the_next_request_is_asked_again(sessions: House) -> None:
    person = Person(is_busy=True)
    async with doomed(sessions, person) as client:
        request = Abandoned(client.call_tool("pay", {"amount": 3}))
        await person.until(lambda: person.asked == ["Pay 3?"])
        await sessions.kill()
        await request.over()
    again = Person()
    async with sessions.served_client(again) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert again.asked == ["Pay 3?"]
    assert sessions.effects == KEPT
    assert len(await calls_of(sessions.mcp)) == 1


@each_session
async def test_between_answer_and_result_nobody_is_asked_again(sessions: House) -> None:
    sessions.hold("work")
    async with doomed(sessions, Person()) as client:
        request = Abandoned(client.call_tool("pay", {"amount": 3}))
        await sessions.effect("works")
        await sessions.kill()
        await request.over()
    sessions.release("work")
    again = Person(lambda _: yes("mallory"))
    async with sessions.served_client(again) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert again.asked == []
    assert sessions.effects == ["works", *KEPT]
    assert len(await calls_of(sessions.mcp)) == 1


@each_session
async def test_after_the_result_and_before_the_reply_nobody_is_asked_again(sessions: House) -> None:
    sessions.hold("reply")
    async with doomed(sessions, Person()) as client:
        request = Abandoned(client.call_tool("pay", {"amount": 3}))
        await sessions.ended()
        await sessions.kill()
        await request.over()
    sessions.release("reply")
    again = Person(lambda _: yes("mallory"))
    async with sessions.served_client(again) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert again.asked == []
    assert sessions.effects == KEPT


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["sse"])
async def test_what_one_process_sealed_its_sibling_opens(stateless: House, tmp_path: Path) -> None:
    async with (
        house_of(tmp_path, "sse", "stateless") as sibling,
        stateless.served_client(Person()) as one,
        sibling.served_client(Person()) as other,
    ):
        state = await asked_for_state(one)
        assert text(await round_of(other, state, "ann")) == "paid 3, by ann"
        assert text(await round_of(one, state, "mallory")) == "paid 3, by ann"
    assert stateless.effects == KEPT


# --- a server that leaves in good order -----------------------------------------------------------


@each_session
async def test_a_server_that_leaves_withdraws_its_questions_and_says_to_ask_again(sessions: House) -> None:
    person = Person(is_busy=True)
    heard: list[Any] = []
    async with doomed(sessions, person) as client:
        request = asyncio.create_task(client.call_tool("pay", {"amount": 3}))
        await person.until(lambda: person.asked == ["Pay 3?"])
        await sessions.kill(signal.SIGTERM)
        try:
            await request
        except MCPError as error:
            heard = [str(error), *person.withdrawn]
    assert "Ask again in a moment" in heard[0]
    assert heard[1:] == ["Pay 3?"]
    again = Person()
    async with sessions.served_client(again) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert again.asked == ["Pay 3?"]
    assert len(await calls_of(sessions.mcp)) == 1
