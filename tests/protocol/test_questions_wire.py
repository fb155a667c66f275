"""Questions reach the client of the request, over each transport and in both eras."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CreateMessageResultWithTools,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    TextContent,
    TextResourceContents,
)

from perdure import AlreadyAnswered, CallEnded, DurableContext, DurableMCP, Embedded
from tests.protocol.asking import BOUND, asked, calls_of, status_of, text, until
from tests.protocol.questioned import House, Person, deep_thought, house_of, rejects, samples, yes
from tests.protocol.questions_server import Approval, came_back

CELLS = [
    (transport, era)
    for transport in ("memory", "stdio", "sse", "json")
    for era in ("sessions", "stateless")
    if (transport, era) != ("json", "sessions")  # it has no way to ask: see below
]
each_cell = pytest.mark.parametrize(
    ("transport", "era"),
    [pytest.param(*cell, id="-".join(cell), marks=() if cell[0] == "memory" else pytest.mark.slow) for cell in CELLS],
)
in_memory = pytest.mark.parametrize(("transport", "era"), [("memory", "sessions"), ("memory", "stateless")])
on_sessions = pytest.mark.parametrize(
    ("transport", "era"),
    [
        ("memory", "sessions"),
        *[pytest.param(each, "sessions", marks=pytest.mark.slow) for each in ("stdio", "sse")],
    ],
)


@pytest.fixture
async def house(tmp_path: Path, transport: Any, era: Any) -> AsyncGenerator[House]:
    async with house_of(tmp_path, transport, era) as house:
        yield house


# --- what is asked --------------------------------------------------------------------------------


@each_cell
async def test_a_question_is_asked_and_its_answer_goes_on(house: House) -> None:
    person = Person()
    async with house.served_client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert person.asked == ["Pay 3?"]
    assert house.effects == ["works", "paid 3"]


@each_cell
async def test_several_questions_at_once(house: House) -> None:
    person = Person(lambda params: yes(params.message))
    async with house.served_client(person) as client:
        assert text(await client.call_tool("both", {})) == "boss?, bank?"
    assert sorted(person.asked) == ["bank?", "boss?"]


@in_memory
async def test_several_rounds(house: House) -> None:
    person = Person(lambda params: yes(params.message))
    async with house.client(person) as client:
        assert text(await client.call_tool("rounds", {"count": 3})) == "Number 0?, Number 1?, Number 2?"


@in_memory
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_declined_and_dismissed_are_values_and_asked_once(house: House, action: Any) -> None:
    person = Person(lambda _: ElicitResult(action=action))
    async with house.client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == action
    assert person.asked == ["Pay 3?"]


@in_memory
async def test_an_answer_that_does_not_fit_its_form_is_asked_for_again(house: House) -> None:
    answers = [ElicitResult(action="accept", content={"approved": "perhaps"}), ElicitResult(action="accept"), yes()]
    person = Person(lambda _: answers.pop(0))
    async with house.client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert len(person.asked) == 3
    assert "was refused" in person.asked[1]


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "era"), [("memory", "sessions")])
async def test_an_answer_that_finds_the_disk_full_is_recorded_once_there_is_room(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    (written,) = house.folder.glob("*-wal")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def says(_: Any) -> ElicitResult:
        resource.setrlimit(resource.RLIMIT_FSIZE, (written.stat().st_size + 5000, limits[1]))
        return yes("x" * 20_000)

    async def is_refused() -> bool:
        return "could not be delivered" in caplog.text

    person = Person(says)
    try:
        async with house.client(person) as client, asked(client.call_tool("pay", {"amount": 3})) as asking:
            await until(is_refused)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            async with asyncio.timeout(BOUND):
                assert text(await asking) == f"paid 3, by {'x' * 20_000}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert person.asked == ["Pay 3?"]


@in_memory
async def test_what_a_job_asks_is_asked_of_the_client_of_its_tool(house: House) -> None:
    person = Person()
    async with house.client(person) as client:
        assert text(await client.call_tool("delegate", {})) == "ann"
    assert person.asked == ["The child asks"]


@in_memory
async def test_a_prompt_asks(house: House) -> None:
    async with house.client(Person()) as client:
        (message,) = (await client.get_prompt("letter", {"to": "bob"})).messages
    assert isinstance(message.content, TextContent)
    assert message.content.text == "Dear bob: ann"


@in_memory
@pytest.mark.parametrize(("uri", "shown"), [("note://cats", "cats: ann"), ("news://today", "ann")])
async def test_a_resource_asks_whether_it_is_a_template_or_not(house: House, uri: str, shown: str) -> None:
    async with house.client(Person()) as client:
        (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.text == shown


@in_memory
async def test_a_model_is_asked(house: House) -> None:
    async with house.client(None, sampling_callback=samples) as client:
        assert text(await client.call_tool("think", {})) == "42"


@in_memory
async def test_a_model_that_answers_in_several_blocks_is_asked_once(house: House) -> None:
    asked_for: list[Any] = []

    async def says_in_blocks(_: Any, params: Any) -> CreateMessageResultWithTools:
        asked_for.append(params)
        blocks = [TextContent(type="text", text=part) for part in ("4", "2")]
        return CreateMessageResultWithTools(role="assistant", content=[*blocks], model="small")

    async with house.client(None, sampling_callback=says_in_blocks) as client:
        assert text(await client.call_tool("think", {})) == "42"
    assert len(asked_for) == 1


# --- pages ----------------------------------------------------------------------------------------


@on_sessions
async def test_a_page_is_opened_and_its_client_hears_when_it_is_of_no_more_use(house: House) -> None:
    pages: list[Any] = []

    def open_page(params: Any) -> ElicitResult:
        pages.append(params)
        return ElicitResult(action="accept")

    person = Person(open_page)
    async with house.served_client(person) as client, asked(client.call_tool("visit", {})) as answer:
        await person.until(lambda: bool(pages))
        (call,) = (await house.mcp.calls.find()).calls
        await house.mcp.calls.signal(call.id, came_back, "welcome")
        assert text(await answer) == "welcome"
        await person.until(lambda: person.completed == ["sign-in-1"])
    (page,) = pages
    assert isinstance(page, ElicitRequestURLParams)
    assert (page.url, page.elicitation_id) == ("https://example.org/sign-in", "sign-in-1")


@in_memory
async def test_a_page_that_is_not_opened(house: House) -> None:
    person = Person(lambda _: ElicitResult(action="decline"))
    async with house.client(person) as client:
        assert text(await client.call_tool("visit", {})) == "decline"
    assert person.completed == []


@pytest.mark.parametrize(("transport", "era"), [("memory", "sessions")])
async def test_a_page_that_cannot_be_opened(house: House) -> None:
    person = Person(lambda _: ErrorData(code=-32603, message="no browser"))
    async with house.client(person) as client:
        assert text(await client.call_tool("visit", {})) == "cancel"
    assert person.completed == []


@pytest.mark.parametrize(("transport", "era"), [("memory", "sessions")])
async def test_a_page_whose_question_is_answered_elsewhere_is_of_no_more_use(house: House) -> None:
    person = Person(is_busy=True)
    async with house.client(person) as client, asked(client.call_tool("visit", {})) as answer:
        call = await house.asks()
        await person.until(lambda: person.asked == ["Sign in, please."])
        await house.mcp.calls.answer(call, None)
        await person.until(lambda: person.completed == ["sign-in-1"])
        assert person.withdrawn == ["Sign in, please."]
        await house.mcp.calls.signal(call, came_back, "welcome")
        assert text(await answer) == "welcome"


@pytest.mark.parametrize(("transport", "era"), [("memory", "stateless")])
async def test_a_page_in_the_stateless_era(house: House) -> None:
    person = Person(lambda _: ElicitResult(action="accept"))
    async with house.client(person) as client, asked(client.call_tool("visit", {})) as answer:
        await person.until(lambda: person.asked == ["Sign in, please."])
        (call,) = (await house.mcp.calls.find()).calls
        await house.mcp.calls.signal(call.id, came_back, "welcome")
        assert text(await answer) == "welcome"


# --- answers from elsewhere -----------------------------------------------------------------------


@on_sessions
async def test_what_is_answered_elsewhere_is_withdrawn_from_the_client(house: House) -> None:
    person = Person(is_busy=True)
    async with house.served_client(person) as client, asked(client.call_tool("rounds", {"count": 2})) as answer:
        await person.until(lambda: person.asked == ["Number 0?"])
        await house.mcp.calls.answer(await house.asks(), {"approved": True, "by": "console"})
        await person.until(lambda: person.asked == ["Number 0?", "Number 1?"])
        assert person.withdrawn == ["Number 0?"]
        await person.free()
        assert text(await answer) == "console, ann"


@on_sessions
async def test_what_is_given_up_is_withdrawn_before_the_request_is_answered(house: House) -> None:
    person = Person(is_busy=True)
    async with house.served_client(person) as client:
        assert text(await client.call_tool("patient", {})) == "nobody"
        assert person.withdrawn == ["Still there?"]


@on_sessions
async def test_two_answers_race_and_one_wins(house: House) -> None:
    person = Person(is_busy=True)
    async with house.served_client(person) as client, asked(client.call_tool("pay", {"amount": 3})) as answer:
        await person.until(lambda: person.asked == ["Pay 3?"])
        call = await house.asks()
        await person.free()
        won = True
        try:
            await house.mcp.calls.answer(call, {"approved": True, "by": "console"}, question="approve")
        except (AlreadyAnswered, CallEnded):
            won = False
        assert text(await answer) == f"paid 3, by {'console' if won else 'ann'}"
    assert house.effects == ["works", "paid 3"]


# --- clients that fail to answer ------------------------------------------------------------------


@on_sessions
@pytest.mark.parametrize("code", [-32601, -32603, 0])
async def test_an_error_of_the_client_counts_as_dismissed_and_is_not_asked_again(house: House, code: int) -> None:
    person = Person(lambda _: ErrorData(code=code, message="not today"))
    async with house.served_client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "cancel"
    assert person.asked == ["Pay 3?"]


def little_room(folder: Path) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("little", engine=Embedded(folder / "calls.db", payload_limit=2000), log_level="CRITICAL")

    @mcp.tool()
    async def pay(ctx: DurableContext) -> str:
        said = await ctx.elicit("Pay?", Approval, name="approve")
        return said.data.by if said.action == "accept" else said.action

    return mcp


UNRECORDABLE = pytest.mark.parametrize("by", ["x" * 3000, "\ud800"], ids=["too large", "no Unicode"])


@UNRECORDABLE
async def test_an_answer_that_cannot_be_recorded_counts_as_dismissed_on_a_session(tmp_path: Path, by: str) -> None:
    person = Person(lambda _: yes(by))
    async with Client(little_room(tmp_path), mode="legacy", elicitation_callback=person.answer) as client:
        async with asyncio.timeout(BOUND):
            assert text(await client.call_tool("pay", {})) == "cancel"
    assert person.asked == ["Pay?"]


@UNRECORDABLE
async def test_in_a_stateless_request_it_is_an_error_and_the_question_stays(tmp_path: Path, by: str) -> None:
    mcp = little_room(tmp_path)
    async with Client(mcp, elicitation_callback=Person(lambda _: yes(by)).answer) as client:
        with pytest.raises(MCPError) as error:
            await client.call_tool("pay", {})
        assert error.value.code == INVALID_PARAMS
        ((call, status),) = await calls_of(mcp)
        assert status == "waiting"
        await mcp.calls.answer(call, Approval(approved=True, by="ann"))
        assert text(await client.call_tool("pay", {})) == "ann"


@pytest.mark.parametrize(("transport", "era"), [("memory", "sessions")])
async def test_where_the_client_rejects_asking_its_model_the_servers_own_is_asked(house: House) -> None:
    async with house.client(None, sampling_callback=rejects) as client:
        result: Any = await client.call_tool("think", {})
        assert "User rejected sampling request" in text(result)
        house.mcp.sampler = deep_thought
        assert text(await client.call_tool("think", {})) == "forty-two"


# --- clients that cannot be asked -----------------------------------------------------------------


@each_cell
async def test_a_client_that_cannot_be_asked_is_told_so(house: House) -> None:
    async with house.served_client(None) as client:
        result: Any = await client.call_tool("pay", {"amount": 3})
    assert result.is_error
    assert "cannot be asked" in text(result)
    assert house.effects == []


@in_memory
async def test_where_nobody_can_be_asked_the_default_is_taken(house: House) -> None:
    async with house.client(None) as client:
        assert text(await client.call_tool("with_default", {})) == "default"


@in_memory
async def test_with_a_time_out_the_question_waits_for_an_answer_from_elsewhere(house: House) -> None:
    async with house.client(None) as client:
        assert text(await client.call_tool("patient", {})) == "nobody"
        async with asked(client.call_tool("think", {})) as answer:
            await house.mcp.calls.answer(await house.asks(), "six by nine")
            assert text(await answer) == "six by nine"


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "era"), [("json", "sessions"), ("bare", "sessions")])
async def test_a_session_without_a_way_back_cannot_ask(house: House) -> None:
    person = Person()
    async with house.served_client(person) as client:
        result: Any = await client.call_tool("pay", {"amount": 3})
        assert "cannot be asked" in text(result)
        assert text(await client.call_tool("with_default", {})) == "default"
    assert person.asked == []


@in_memory
async def test_a_call_that_is_cancelled_asks_no_more(house: House) -> None:
    person = Person(is_busy=True)
    async with house.client(person) as client, asked(client.call_tool("pay", {"amount": 3})) as answer:
        await person.until(lambda: person.asked == ["Pay 3?"])
        call = await house.asks()
        await house.mcp.calls.cancel(call)
        await status_of(house.mcp, call, "cancelled")
        await person.free()
        result = await answer
        assert result.is_error
        assert "cancelled" in text(result)
