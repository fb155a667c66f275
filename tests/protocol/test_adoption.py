"""The client is gone, the call goes on; and whoever of the same caller asks the same again gets its one outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import NoBackChannelError
from mcp_types import CancelledNotification, CancelledNotificationParams
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, ToolError, current_step
from perdure.core.call import Status
from tests.protocol.asking import MODES, Gate, asked, calls_of, give_up, status_of, text

pytestmark = pytest.mark.parametrize("mode", MODES)


class Sure(BaseModel):
    ok: bool


def server(**options: Any) -> DurableMCP[Any]:
    return DurableMCP("adoption", engine="memory:", log_level="CRITICAL", **options)


async def only_call(mcp: DurableMCP[Any]) -> str:
    ((call_id, _),) = await calls_of(mcp)
    return call_id


# --- clients that go ------------------------------------------------------------------------------


async def test_a_call_goes_on_without_its_client_and_the_next_request_adopts_it(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with mcp.serving():
        async with Client(mcp, mode=mode) as client, asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        gate.open()
        await status_of(mcp, await only_call(mcp), "completed")
        async with Client(mcp, mode=mode) as another:
            assert text(await another.call_tool("slow", {})) == "1"
        assert gate.came == 1


async def test_it_is_adopted_while_it_still_runs(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        async with asked(client.call_tool("slow", {})) as again:
            gate.open()
            assert text(await again) == "1"
        assert len(await calls_of(mcp)) == 1


async def test_a_failure_is_adopted_like_any_outcome(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> str:
        raise ToolError(f"failed {await gate.pass_through()}")

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        gate.open()
        await status_of(mcp, await only_call(mcp), "failed")
        assert text(await client.call_tool("slow", {})) == "Error executing tool slow: failed 1"
        # That one was answered: the next is a call of its own.
        assert text(await client.call_tool("slow", {})) == "Error executing tool slow: failed 2"


async def test_what_was_answered_is_not_given_again(mode: str) -> None:
    mcp, ran = server(), list[int]()

    @mcp.tool()
    async def count() -> int:
        ran.append(1)
        return len(ran)

    async with Client(mcp, mode=mode) as client:
        assert [text(await client.call_tool("count", {})) for _ in range(3)] == ["1", "2", "3"]


async def test_other_arguments_adopt_nothing(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow(x: int) -> int:
        return await gate.pass_through()

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {"x": 1})) as request:
            await gate.until(came=1)
            await give_up(request)
        async with asked(client.call_tool("slow", {"x": 2})) as other:
            await gate.until(came=2)
            gate.open()
            assert text(await other) == "2"


async def test_what_is_too_old_is_not_adopted(mode: str) -> None:
    mcp, gate = server(adopt_within=timedelta(0)), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        gate.open()
        await status_of(mcp, await only_call(mcp), "completed")
        assert text(await client.call_tool("slow", {})) == "2"


async def test_two_that_are_both_waited_for_are_two_calls(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    clients = Client(mcp, mode=mode), Client(mcp, mode=mode)
    async with clients[0] as ann, clients[1] as bob, asked(ann.call_tool("slow", {})) as first:
        await gate.until(came=1)
        async with asked(bob.call_tool("slow", {})) as second:
            await gate.until(came=2)
            gate.open()
            assert {text(await first), text(await second)} == {"1", "2"}


async def test_identical_requests_are_one_call_where_the_tool_says_so(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool(identical="attach")
    async def slow() -> int:
        return await gate.pass_through()

    @mcp.tool()
    async def marker() -> None: ...

    async with Client(mcp, mode=mode) as ann, Client(mcp, mode=mode) as bob, asyncio.TaskGroup() as both:
        first = both.create_task(ann.call_tool("slow", {}))
        await gate.until(came=1)
        second = both.create_task(bob.call_tool("slow", {}))
        await bob.call_tool("marker", {})  # calls are started in order: the second has been, too
        gate.open()
        assert text(await first) == text(await second) == "1"


# --- prompts and resources ------------------------------------------------------------------------


async def test_prompts_and_resources_are_adopted_too(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.prompt(durable=True)
    async def draft() -> str:
        return f"draft {await gate.pass_through()}"

    @mcp.resource("slow://page", durable=True)
    async def page() -> str:
        return f"page {await gate.pass_through()}"

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.get_prompt("draft")) as request:
            await gate.until(came=1)
            await give_up(request)
        async with asked(client.read_resource("slow://page")) as request:
            await gate.until(came=2)
            await give_up(request)
        gate.open()
        assert "draft 1" in str(await client.get_prompt("draft"))
        assert "page 2" in str(await client.read_resource("slow://page"))


# --- restarts -------------------------------------------------------------------------------------


async def test_a_call_that_a_restart_interrupted_is_adopted_by_its_caller(mode: str, tmp_path: Path) -> None:
    lives = list[str]()

    @asynccontextmanager
    async def life(name: str) -> AsyncGenerator[tuple[DurableMCP[Any], Gate]]:
        mcp = DurableMCP[Any]("adoption", engine=tmp_path / "calls.db", log_level="CRITICAL")
        gate = Gate()

        @mcp.tool(rerun=True)
        async def slow() -> str:
            lives.append(name)
            await gate.pass_through()
            return name

        async with mcp.serving():
            yield mcp, gate

    async with life("first") as (mcp, gate), Client(mcp, mode=mode) as client, asked(client.call_tool("slow", {})):
        await gate.until(came=1)
    async with life("second") as (mcp, gate), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as again:
            await gate.until(came=1)
            gate.open()
            assert text(await again) == "second"
        assert len(await calls_of(mcp)) == 1
    assert lives == ["first", "second"]


async def test_in_a_later_life_a_whole_step_has_the_state_and_nobody_to_talk_to(mode: str, tmp_path: Path) -> None:
    said = list[str]()

    @asynccontextmanager
    async def state(_: object) -> AsyncGenerator[str]:
        yield "the state"

    @asynccontextmanager
    async def life() -> AsyncGenerator[tuple[DurableMCP[str], Gate]]:
        mcp = DurableMCP("adoption", engine=tmp_path / "calls.db", lifespan=state, log_level="CRITICAL")
        gate = Gate()

        @mcp.tool(rerun=True)
        async def slow(ctx: Context[str]) -> str:
            await ctx.report_progress(1, 2)
            await gate.pass_through()
            try:
                await ctx.elicit("Go on?", Sure)
            except NoBackChannelError as error:
                said.append(error.method)
            return ctx.request_context.lifespan_context

        async with mcp.serving():
            yield mcp, gate

    async with life() as (mcp, gate), Client(mcp, mode=mode) as client, asked(client.call_tool("slow", {})):
        await gate.until(came=1)
    async with life() as (mcp, gate):
        await gate.until(came=1)
        gate.open()
        async with Client(mcp, mode=mode) as client:
            assert text(await client.call_tool("slow", {})) == "the state"
    assert said == ["elicitation/create"]


# --- who wants what stopped -----------------------------------------------------------------------


async def test_a_disconnect_cancels_a_call_that_says_so(mode: str) -> None:
    mcp, gate, ended = server(), Gate(), list[str]()

    @mcp.tool(on_disconnect="cancel")
    async def slow(ctx: DurableContext) -> None:
        try:
            await ctx.step(gate.pass_through)
        finally:
            ended.append("cleaned up")

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        call = await only_call(mcp)
        await status_of(mcp, call, "cancelled")
        async with asked(client.call_tool("slow", {})):  # its client left it: that is over, and this begins anew
            await gate.until(came=2)
        assert (await mcp.calls.get(call)).status == "cancelled"
    assert ended[0] == "cleaned up"


async def test_what_its_caller_cancelled_is_not_told_to_who_asks_again(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def slow(ctx: DurableContext) -> int:
        return await ctx.step(gate.pass_through)

    @mcp.tool()
    async def stop(call: str) -> None:
        await current_step().calls.cancel(call)

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        call = await only_call(mcp)
        await client.call_tool("stop", {"call": call})
        await status_of(mcp, call, "cancelled")
        gate.open()
        assert text(await client.call_tool("slow", {})) == "2"


async def test_what_is_cancelled_is_over_for_its_caller_while_it_cleans_up(mode: str) -> None:
    mcp, gate, clean = server(), Gate(), Gate()

    @mcp.tool(on_disconnect="cancel")
    async def slow(ctx: DurableContext) -> int:
        try:
            return await ctx.step(gate.pass_through)
        finally:
            await ctx.step(clean.pass_through)

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        await clean.until(came=1)
        async with asked(client.call_tool("slow", {})) as again:
            await gate.until(came=2)
            gate.open()
            clean.open()
            assert text(await again) == "2"


@pytest.mark.parametrize("by", ["an operator", "its deadline"])
async def test_of_what_others_cancelled_the_next_request_is_told_once(mode: str, by: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool(deadline=timedelta(milliseconds=500) if by == "its deadline" else timedelta(days=1))
    async def slow(ctx: DurableContext) -> int:
        return await ctx.step(gate.pass_through)

    async with mcp.serving(), Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        call = await only_call(mcp)
        if by == "an operator":
            await mcp.calls.cancel(call, reason="not today")
        await status_of(mcp, call, "cancelled")
        told = await client.call_tool("slow", {})
        assert told.is_error
        assert ("not today" if by == "an operator" else "deadline") in text(told)
        gate.open()
        assert text(await client.call_tool("slow", {})) == "2"


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        ("user pressed stop", "cancelled"),
        (None, "completed"),
        ("", "completed"),
        ("timed out after 0.5s", "completed"),
        ("caller cancelled", "completed"),
        ("McpError: MCP error -32001: Request timed out", "completed"),
    ],
)
async def test_a_cancellation_counts_if_its_reason_is_no_time_out(mode: str, reason: str | None, ends: Status) -> None:
    if mode == "auto":
        return  # in memory the stateless era has no notifications from clients
    mcp, gate, request_ids = server(), Gate(), list[Any]()

    @mcp.tool()
    async def slow(ctx: Context) -> str:
        request_ids.append(ctx.request_context.request_id)
        await gate.pass_through()
        return "done"

    @mcp.tool()
    async def marker() -> None: ...

    async with mcp.serving(), Client(mcp, mode=mode) as client, asked(client.call_tool("slow", {})) as request:
        await gate.until(came=1)
        params = CancelledNotificationParams(request_id=request_ids[0], reason=reason)
        await client.session.send_notification(CancelledNotification(params=params))
        await client.call_tool("marker", {})  # what was sent before it has arrived
        gate.open()
        ((call_id, _),) = await calls_of(mcp, "slow")
        await status_of(mcp, call_id, ends)
        assert not request.done()  # nobody answers what nobody waits for


async def test_nothing_of_this_is_an_error_in_the_log(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool(on_disconnect="cancel")
    async def slow(ctx: DurableContext) -> None:
        await ctx.step(gate.pass_through)

    with caplog.at_level(logging.WARNING):
        async with mcp.serving(), Client(mcp, mode=mode) as client:
            async with asked(client.call_tool("slow", {})) as request:
                await gate.until(came=1)
                await give_up(request)
            await status_of(mcp, await only_call(mcp), "cancelled")
    assert caplog.messages == []
