"""What a client is told of a call that was cancelled, timed out, failed in a way of ours, or cannot go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from perdure import (
    DurableContext,
    DurableMCP,
    Embedded,
    OutcomeUnknown,
    PerdureError,
    Retry,
    StepFailed,
    ToolError,
    step,
)
from tests.protocol.asking import MODES, Gate, asked, calls_of, give_up, status_of, text

pytestmark = pytest.mark.parametrize("mode", MODES)

PREFIX = "Error executing tool slow"


def server(**options: Any) -> DurableMCP[Any]:
    options = {"engine": "memory:", "log_level": "CRITICAL", **options}
    return DurableMCP("incomplete", **options)


async def failing(mode: str, fail: Callable[[], Any], **options: Any) -> str:
    """What a client is told when a body fails like this."""
    mcp = server(**options)

    @mcp.tool()
    async def slow(ctx: DurableContext) -> Any:
        return fail()

    async with Client(mcp, mode=mode) as client:
        result = await client.call_tool("slow", {})
    assert result.is_error
    return text(result)


def throws(error: Exception) -> Callable[[], Any]:
    def throw() -> Any:
        raise error

    return throw


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolError("no such place"), f"{PREFIX}: no such place"),
        (OutcomeUnknown("pay", "k1"), f"{PREFIX}: {OutcomeUnknown('pay', 'k1')}"),
        (StepFailed("read", "HTTPError", "https://user:password@host", 5), PREFIX),
        (PerdureError("internal"), PREFIX),
        (KeyError("secret"), PREFIX),
        (ExceptionGroup("several", [ValueError("secret")]), PREFIX),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_errors_that_are_meant_for_clients_keep_their_words_and_no_others(
    mode: str, error: Exception, told: str
) -> None:
    assert await failing(mode, throws(error)) == told


async def test_a_result_that_is_too_large_is_named(mode: str) -> None:
    told = await failing(mode, lambda: "x" * 2000, engine=Embedded("memory:", payload_limit=1000))
    assert "more than the 1,000 that are recorded" in told


def crash(what: str) -> Any:
    raise KeyError(what)


async def whole() -> None:
    crash("what only the log may know")


def threaded() -> None:
    crash("what only the log may know")


async def body(ctx: DurableContext) -> None:
    crash("what only the log may know")


async def stepping(ctx: DurableContext) -> None:
    await step(crash, retry=Retry(attempts=1))("what only the log may know")


async def failing_step(ctx: DurableContext) -> None:
    raise StepFailed("read", "HTTPError", "what only the log may know", 5)


async def unrecordable() -> int:
    return cast("int", "what only the log may know")


@pytest.mark.parametrize(
    "tool", [whole, threaded, body, stepping, failing_step, unrecordable], ids=lambda tool: tool.__name__
)
async def test_a_crash_is_in_the_log_once_with_its_call_and_not_at_the_client(
    mode: str, caplog: pytest.LogCaptureFixture, tool: Callable[..., Any]
) -> None:
    mcp = server(log_level="INFO")
    mcp.tool()(tool)
    with caplog.at_level(logging.ERROR):
        async with Client(mcp, mode=mode) as client:
            assert text(await client.call_tool(tool.__name__, {})) == f"Error executing tool {tool.__name__}"
            ((call, _),) = await calls_of(mcp)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert call in record.getMessage()
    assert record.exc_info is not None
    assert "what only the log may know" in caplog.text


async def test_a_tool_of_unknown_outcome_says_what_to_do_without_a_word_of_keys(mode: str, tmp_path: Path) -> None:
    gate = Gate()

    def life() -> DurableMCP[Any]:
        mcp = server(engine=Embedded(tmp_path / "calls.db", grace=timedelta(0)))

        @mcp.tool()
        async def slow() -> int:
            return await gate.pass_through()

        return mcp

    first = life()
    async with first.serving(), Client(first, mode=mode) as client, asked(client.call_tool("slow", {})):
        await gate.until(came=1)
    second = life()
    async with second.serving(), Client(second, mode=mode) as client:
        ((call, _),) = await calls_of(second)
        told = text(await client.call_tool("slow", {}))
    assert "'slow' was interrupted and may have happened" in told
    assert f"perdure retry {call}" in told
    assert "key" not in told


async def test_a_deadline_is_told(mode: str) -> None:
    mcp = server()

    @mcp.tool(deadline=timedelta(milliseconds=50))
    async def slow(ctx: DurableContext) -> None:
        await ctx.sleep(timedelta(days=1))

    async with Client(mcp, mode=mode) as client:
        assert text(await client.call_tool("slow", {})) == f"{PREFIX}: The call was cancelled: deadline."


async def test_an_operators_cancellation_is_told_with_its_reason(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with Client(mcp, mode=mode) as client, asked(client.call_tool("slow", {})) as request:
        await gate.until(came=1)
        ((call, _),) = await calls_of(mcp)
        await mcp.calls.cancel(call, reason="out of budget")
        assert text(await request) == f"{PREFIX}: The call was cancelled: out of budget."


async def test_a_cancelled_prompt_or_resource_is_a_protocol_error(mode: str) -> None:
    mcp = server()

    @mcp.prompt(deadline=timedelta(milliseconds=20))
    async def draft(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(days=1))
        return ""

    @mcp.resource("slow://page", deadline=timedelta(milliseconds=20))
    async def page(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(days=1))
        return ""

    async with Client(mcp, mode=mode) as client:
        with pytest.raises(MCPError, match="cancelled: deadline"):
            await client.get_prompt("draft")
        with pytest.raises(MCPError, match="cancelled: deadline"):
            await client.read_resource("slow://page")


# --- retries of whole steps -----------------------------------------------------------------------


async def test_a_whole_step_is_tried_once_unless_it_has_a_policy(mode: str) -> None:
    mcp, tries = server(defaults={"retry": Retry(attempts=3, first=timedelta(0))}), list[str]()

    @mcp.tool()
    async def by_default() -> None:
        tries.append("by default")
        raise ConnectionError

    @mcp.tool(retry=Retry(attempts=2, first=timedelta(0)))
    async def by_its_own() -> None:
        tries.append("by its own")
        raise ConnectionError

    plain = server()

    @plain.tool()
    async def once() -> None:
        tries.append("once")
        raise ConnectionError

    async with Client(mcp, mode=mode) as client, Client(plain, mode=mode) as other:
        for tool in "by_default", "by_its_own":
            await client.call_tool(tool, {})
        await other.call_tool("once", {})
    assert tries == ["by default"] * 3 + ["by its own"] * 2 + ["once"]


# --- stuck ----------------------------------------------------------------------------------------


@step
async def first_name() -> str:
    return "one"


@step
async def other_name() -> str:
    return "other"


async def test_who_waits_for_a_call_that_is_stuck_is_told_at_once_and_may_ask_again(mode: str, tmp_path: Path) -> None:
    def life(code: str, gate: Gate) -> DurableMCP[Any]:
        mcp = server(engine=tmp_path / "calls.db")

        async def slow(ctx: DurableContext) -> str:
            name = await (first_name if code == "old" else other_name)()
            await ctx.step(gate.pass_through)
            return name

        mcp.tool()(slow)
        return mcp

    gate = Gate()
    old = life("old", gate)
    async with old.serving(), Client(old, mode=mode) as client, asked(client.call_tool("slow", {})):
        await gate.until(came=1)
    changed = life("changed", gate)
    async with changed.serving(), Client(changed, mode=mode) as client:
        told = [text(await client.call_tool("slow", {})) for _ in range(2)]  # the first was no answer of the call's
        ((call, status),) = await calls_of(changed)
        assert status == "stuck"
        for each in told:
            assert f"Call {call} is stuck" in each
            assert "first_name" not in each  # why it is, is for the operator
    mended = life("old", gate)
    gate.open()
    async with mended.serving(), Client(mended, mode=mode) as client:
        await status_of(mended, call, "completed")  # a new process tries once more by itself
        assert text(await client.call_tool("slow", {})) == "one"
        assert await calls_of(mended) == [(call, "completed")]


# --- where a tool may not be called ---------------------------------------------------------------


async def test_a_body_that_calls_a_tool_by_hand_is_told_to_use_a_step(mode: str) -> None:
    mcp = server()

    @mcp.tool()
    def inner() -> str:
        return "inner"

    @mcp.tool()
    async def slow(ctx: DurableContext) -> str:
        with pytest.raises(PerdureError, match="move it into a @step"):
            await mcp.call_tool("inner", {})
        return str(await ctx.step(by_a_step))

    async def by_a_step() -> dict[str, Any] | None:
        result: Any = await mcp.call_tool("inner", {})
        return result.structured_content

    async with Client(mcp, mode=mode) as client:
        assert text(await client.call_tool("slow", {})) == "{'result': 'inner'}"


async def test_what_a_program_gives_up_goes_on_and_is_adopted(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        program = asyncio.create_task(mcp.call_tool("slow", {}))
        await gate.until(came=1)
        await give_up(program)
        gate.open()
        ((call, _),) = await calls_of(mcp)
        await status_of(mcp, call, "completed")
        assert text(await client.call_tool("slow", {})) == "1"
