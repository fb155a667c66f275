"""Handles: what a client without tasks gets of a call that goes on, and the tools that it comes back with."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ElicitResult, ImageContent
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Signal
from perdure.testing import trial
from tests.protocol.asking import MODES, asked, calls_of, text
from tests.protocol.tasking import Holding, create

TOOLS = {"check_calls", "await_calls", "cancel_call", "answer_call"}
AT_ONCE = timedelta(0)
go = Signal("go", str)


class Place(BaseModel):
    name: str


class Trip(BaseModel):
    places: list[Place]


def make() -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("handles", engine="memory:", handle_tools=True, log_level="CRITICAL")

    @mcp.tool(signals=[go], handoff_after=AT_ONCE)
    async def wait(ctx: DurableContext) -> str:
        await ctx.set_status("waits")
        return await ctx.receive(go)

    @mcp.tool(handoff_after=AT_ONCE)
    async def travel(ctx: DurableContext) -> Trip:
        return Trip(places=[Place(name="Oslo")])

    @mcp.tool()
    async def quick(ctx: DurableContext) -> Trip:
        return Trip(places=[])

    @mcp.tool()
    async def slow(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(minutes=5))
        return "at last"

    @mcp.tool(task="required")
    async def always(ctx: DurableContext) -> str:
        return "done"

    @mcp.tool(handoff_after=AT_ONCE)
    async def refuses(ctx: DurableContext) -> str:
        raise ToolError("not today")

    @mcp.tool(handoff_after=AT_ONCE, structured_output=False)
    def picture() -> Image:
        return Image(data=b"a picture", format="png")

    @mcp.tool(handoff_after=AT_ONCE)
    async def asks(ctx: DurableContext) -> str:
        said = await ctx.elicit("Where to?", Place, name="where")
        return f"to {said.data.name}" if said.action == "accept" else said.action

    @mcp.tool(handoff_after=AT_ONCE)
    async def thinks(ctx: DurableContext) -> str:
        return (await ctx.sample("As JSON, please.")).text

    @mcp.tool(handoff_after=None)
    async def patient(ctx: DurableContext) -> Trip:
        return Trip(places=[])

    return mcp


async def handle(client: Client, tool: str) -> str:
    """The id in the handle that a call becomes."""
    result = await client.call_tool(tool)
    assert result.structured_content is not None
    assert result.structured_content["status"] == "working"
    return result.structured_content["call_id"]


async def states(client: Client, *call_ids: str, tool: str = "await_calls", **options: Any) -> list[dict[str, Any]]:
    result = await client.call_tool(tool, {"call_ids": list(call_ids), **options})
    assert result.structured_content is not None, text(result)
    return result.structured_content["calls"]


# --- the handle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_gets_a_handle_and_comes_back_for_the_result(mode: Any) -> None:
    mcp = make()
    async with Client(mcp, mode=mode) as client:
        call = await handle(client, "wait")
        (looked,) = await states(client, call, tool="check_calls")
        assert (looked["call_id"], looked["status"], looked["tool"]) == (call, "working", "wait")
        async with asked(states(client, call)) as waiting:
            await mcp.calls.signal(call, go, "on")
            (done,) = await waiting
        assert (done["status"], done["result"]) == ("completed", {"result": "on"})


async def test_the_handle_says_in_words_what_to_do_next() -> None:
    async with Client(make()) as client:
        words = text(await client.call_tool("wait"))
        for told in ("await_calls", "check_calls", "Do not call wait again"):
            assert told in words


async def test_the_handle_of_a_call_with_a_key_warns_of_nothing_that_would_not_happen() -> None:
    mcp = make()

    @mcp.tool(signals=[go], handoff_after=AT_ONCE, key="{token}")
    async def once(token: str, ctx: DurableContext) -> str:
        return await ctx.receive(go)

    async with Client(mcp) as client:
        first, second = [await client.call_tool("once", {"token": "a"}) for _ in range(2)]
        assert first.structured_content == second.structured_content
        assert "for the same thing it is the same call" in text(first)
        assert "twice" not in text(first)


async def test_a_request_waits_for_its_time_before_it_becomes_a_handle() -> None:
    mcp = make()
    async with trial(mcp) as t:
        async with asked(t.client.call_tool("slow")) as asking:
            await t.advance(timedelta(seconds=44))
            assert not asking.done()
            await t.advance(timedelta(seconds=1))
            result = await asking
        assert result.structured_content is not None
        call = result.structured_content["call_id"]
        await t.advance(timedelta(minutes=5))
        (done,) = await states(t.client, call)
        assert done["result"] == {"result": "at last"}


async def test_what_ends_in_time_gives_its_result() -> None:
    async with Client(make()) as client:
        assert (await client.call_tool("quick")).structured_content == {"places": []}


async def test_what_must_be_a_task_is_a_handle() -> None:
    async with Client(make()) as client:
        (done,) = await states(client, await handle(client, "always"))
        assert done["result"] == {"result": "done"}


async def test_a_client_that_takes_tasks_gets_a_task_instead() -> None:
    async with Client(make(), extensions=[Holding()]) as client:
        assert len(await create(client, "wait")) == 32


async def test_a_handle_counts_as_an_answer_so_the_same_request_is_another_call() -> None:
    async with Client(make()) as client:
        assert await handle(client, "wait") != await handle(client, "wait")


async def test_tools_that_may_give_a_handle_say_so_in_their_output_schema() -> None:
    async with Client(make()) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        schema = tools["travel"].output_schema
        assert schema is not None
        own, other = schema["anyOf"]
        assert own["title"] == "Trip"
        assert other["title"] == "Handle"
        assert "Place" in schema["$defs"]
        assert "anyOf" not in (tools["patient"].output_schema or {})
        # The client checks both against it.
        (done,) = await states(client, await handle(client, "travel"))
        assert done["result"] == {"places": [{"name": "Oslo"}]}


async def test_a_server_lists_the_tools_only_if_it_gives_handles() -> None:
    async with Client(make()) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= TOOLS
    async with Client(DurableMCP[Any]("plain", engine="memory:")) as client:
        assert not {tool.name for tool in (await client.list_tools()).tools} & TOOLS


async def test_each_of_the_tools_is_described_in_one_line() -> None:
    async with Client(make()) as client:
        described = {tool.name: tool.description or "" for tool in (await client.list_tools()).tools}
        for name in TOOLS:
            assert described[name] == " ".join(described[name].split()) != ""


async def test_without_them_a_client_waits() -> None:
    mcp = DurableMCP[Any]("plain", engine="memory:")

    @mcp.tool(handoff_after=AT_ONCE)
    async def quick(ctx: DurableContext) -> str:
        return "done"

    async with Client(mcp) as client:
        assert text(await client.call_tool("quick")) == "done"


# --- coming back ----------------------------------------------------------------------------------


async def test_what_a_tool_refuses_is_told_as_a_failure() -> None:
    async with Client(make()) as client:
        (done,) = await states(client, await handle(client, "refuses"))
        assert (done["status"], done["result"]) == ("failed", "Error executing tool refuses: not today")


async def test_what_is_stuck_is_told_as_that() -> None:
    mcp = make()

    @mcp.tool(handoff_after=AT_ONCE)
    async def spins(ctx: DurableContext) -> str:
        while True:
            await asyncio.sleep(0)

    async with Client(mcp) as client:
        (looked,) = await states(client, await handle(client, "spins"))
        assert looked["status"] == "stuck"
        assert "needs an operator" in looked["message"]


async def test_an_image_comes_as_an_image() -> None:
    async with Client(make()) as client:
        call = await handle(client, "picture")
        result = await client.call_tool("await_calls", {"call_ids": [call]})
        assert [block for block in result.content if isinstance(block, ImageContent)]


async def test_waiting_ends_with_its_time() -> None:
    mcp = make()
    async with trial(mcp) as t:
        call = await handle(t.client, "wait")
        async with asked(states(t.client, call, seconds=20)) as waiting:
            await t.advance(timedelta(seconds=19))
            assert not waiting.done()
            await t.advance(timedelta(seconds=1))
            (looked,) = await waiting
        assert (looked["status"], looked["message"]) == ("working", "waits")


async def test_several_are_waited_for_together() -> None:
    mcp = make()
    async with Client(mcp) as client:
        calls = [await handle(client, "wait") for _ in range(5)]
        async with asked(states(client, *calls, "never-was")) as waiting:
            for call in calls:
                await mcp.calls.signal(call, go, call)
            done = await waiting
        assert [each.get("result") for each in done] == [*({"result": call} for call in calls), None]
        assert done[-1]["status"] == "not_found"


async def test_a_call_is_cancelled_by_its_handle() -> None:
    async with Client(make()) as client:
        call = await handle(client, "wait")
        await client.call_tool("cancel_call", {"call_id": call, "reason": "no need"})
        (done,) = await states(client, call)
        assert (done["status"], done["message"]) == ("cancelled", "The call was cancelled: no need.")
        again = await client.call_tool("cancel_call", {"call_id": call})
        assert again.is_error
        assert "has ended" in text(again)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"answer": {"name": "Rome"}}, "to Rome"),
        ({"answer": '{"name": "Rome"}'}, "to Rome"),
        ({"answer": {"name": "Rome"}, "question": "where"}, "to Rome"),
        ({"action": "decline"}, "decline"),
        ({"action": "cancel"}, "cancel"),
    ],
)
async def test_what_a_call_asks_is_answered_by_its_handle(answer: dict[str, Any], result: str) -> None:
    async with Client(make()) as client:
        call = await handle(client, "asks")
        (asking,) = await states(client, call)
        assert asking["status"] == "input_required"
        (question,) = asking["questions"]
        assert (question["question"], question["message"]) == ("where", "Where to?")
        assert question["answer_schema"]["required"] == ["name"]
        assert not (await client.call_tool("answer_call", {"call_id": call, **answer})).is_error
        (done,) = await states(client, call)
        assert done["result"] == {"result": result}


async def test_what_the_client_cannot_be_asked_is_handed_off_at_once() -> None:
    mcp = make()

    @mcp.tool()
    async def asks_later(ctx: DurableContext) -> str:
        said = await ctx.elicit("Where to?", Place)
        return said.action

    async with trial(mcp) as t:
        async with asked(t.client.call_tool("asks_later")) as asking:
            result = await asking
        assert result.structured_content is not None
        call = result.structured_content["call_id"]
        await t.client.call_tool("answer_call", {"call_id": call, "action": "decline"})
        (done,) = await states(t.client, call)
        assert done["result"] == {"result": "decline"}


async def test_what_the_client_can_be_asked_is_asked_there() -> None:
    mcp = make()

    @mcp.tool()
    async def asks_later(ctx: DurableContext) -> str:
        said = await ctx.elicit("Where to?", Place)
        return said.action

    async def decline(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    for mode in MODES:
        async with Client(mcp, mode=mode, elicitation_callback=decline) as client:
            assert text(await client.call_tool("asks_later")) == "decline"


@pytest.mark.parametrize("said", ['{"city":  "Rome"}', "[1, 2]", "null", '"Rome"', "42", "Rome"])
async def test_what_is_said_in_a_model_s_place_is_taken_as_it_is_also_if_it_is_json(said: str) -> None:
    async with Client(make()) as client:
        call = await handle(client, "thinks")
        await states(client, call)
        answered = await client.call_tool("answer_call", {"call_id": call, "answer": said})
        assert not answered.is_error, text(answered)
        (ended,) = await states(client, call)
        assert ended["result"] == {"result": said}


@pytest.mark.parametrize("nothing", [{}, {"answer": None}])
async def test_no_answer_is_none(nothing: dict[str, Any]) -> None:
    async with Client(make()) as client:
        for tool in ("thinks", "asks"):
            call = await handle(client, tool)
            await states(client, call)
            assert (await client.call_tool("answer_call", {"call_id": call, **nothing})).is_error


async def test_an_answer_that_does_not_fit_is_refused_and_says_why() -> None:
    async with Client(make()) as client:
        call = await handle(client, "asks")
        await states(client, call)
        refused = await client.call_tool("answer_call", {"call_id": call, "answer": {"title": "Rome"}})
        assert refused.is_error
        assert "where" in text(refused)
        (still,) = await states(client, call)
        assert still["status"] == "input_required"


@pytest.mark.parametrize("tool", ["cancel_call", "answer_call"])
async def test_an_id_that_never_was_is_not_found(tool: str) -> None:
    async with Client(make()) as client:
        refused = await client.call_tool(tool, {"call_id": "0" * 32})
        assert refused.is_error
        assert "There is no call" in text(refused)


async def test_the_tools_themselves_are_ordinary() -> None:
    mcp = make()
    async with Client(mcp) as client:
        call = await handle(client, "travel")
        await states(client, call)
        assert [each for each, _ in await calls_of(mcp)] == [call]
