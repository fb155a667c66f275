"""The Tasks extension: what becomes a task, what a task shows, and who may see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp.client.session import ClientSession
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult

from perdure import DurableContext, DurableMCP, Signal
from perdure.testing import trial
from tests.protocol.asking import calls_of, status_of, text, until, with_key
from tests.protocol.tasking import Holding, cancel_task, create, ended, get_task, task_as, update_task

MISSING_CAPABILITY = -32021
go = Signal("go", str)
AT_ONCE = timedelta(0)


async def update_nothing(session: ClientSession, task_id: str) -> Any:
    return await update_task(session, task_id, {})


VERBS = (get_task, cancel_task, update_nothing)


def make() -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("tasks", engine="memory:", log_level="CRITICAL")

    @mcp.tool(signals=[go], handoff_after=AT_ONCE)
    async def wait(ctx: DurableContext) -> str:
        await ctx.set_status("waits")
        return await ctx.receive(go)

    @mcp.tool(signals=[go], handoff_after=AT_ONCE)
    async def stubborn(ctx: DurableContext) -> str:
        try:
            return await ctx.receive(go)
        except asyncio.CancelledError:
            return await ctx.receive(go)

    @mcp.tool()
    async def quick(ctx: DurableContext) -> str:
        return "at once"

    @mcp.tool(task="forbidden", handoff_after=AT_ONCE)
    async def never(ctx: DurableContext) -> str:
        return "never a task"

    @mcp.tool(task="required")
    async def always(ctx: DurableContext) -> str:
        return "always a task"

    @mcp.tool(handoff_after=AT_ONCE)
    async def refuses(ctx: DurableContext) -> str:
        raise ToolError("not today")

    @mcp.tool(handoff_after=AT_ONCE)
    async def breaks_off(ctx: DurableContext) -> str:
        raise MCPError(-32042, "of the protocol", {"why": "it says so"})

    @mcp.tool(handoff_after=AT_ONCE)
    async def sleeps(seconds: float, ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(seconds=seconds))
        return "slept"

    @mcp.tool(handoff_after=AT_ONCE)
    async def spins(ctx: DurableContext) -> str:
        while True:
            await asyncio.sleep(0)

    @mcp.tool(handoff_after=AT_ONCE)
    def whole() -> dict[str, int]:
        return {"number": 3}

    return mcp


@asynccontextmanager
async def held(mcp: DurableMCP[Any] | None = None) -> AsyncGenerator[tuple[DurableMCP[Any], Client]]:
    """A client that takes tasks."""
    mcp = make() if mcp is None else mcp
    async with Client(mcp, extensions=[Holding()]) as client:
        yield mcp, client


# --- what becomes a task --------------------------------------------------------------------------


async def test_a_call_that_goes_on_is_a_task_and_its_result_is_got_with_it() -> None:
    async with held() as (mcp, client):
        task = await create(client, "wait")
        working = await task_as(client.session, task, "working")
        assert working.ttl_ms is None
        assert working.poll_interval_ms == 1000
        await mcp.calls.signal(task, go, "on")
        done = await ended(client.session, task)
        assert done.status == "completed"
        assert done.result is not None
        assert text(CallToolResult.model_validate(done.result)) == "on"
        assert done.ttl_ms is not None
        assert done.poll_interval_ms is None


async def test_the_id_of_a_task_is_that_of_its_call() -> None:
    async with held() as (mcp, client):
        task = await create(client, "wait")
        assert [call for call, _ in await calls_of(mcp)] == [task]


async def test_a_client_gets_the_result_without_knowing_of_the_task() -> None:
    holding = Holding()
    async with Client(make(), extensions=[holding]) as client:
        assert text(await client.call_tool("always")) == "always a task"
        assert len(holding.held) == 1


async def test_what_ends_in_time_is_answered_without_a_task() -> None:
    holding = Holding()
    async with Client(make(), extensions=[holding]) as client:
        assert text(await client.call_tool("quick")) == "at once"
        assert not holding.held


async def test_what_may_not_be_a_task_never_is() -> None:
    holding = Holding()
    async with Client(make(), extensions=[holding]) as client:
        assert text(await client.call_tool("never")) == "never a task"
        assert not holding.held


async def test_a_client_without_tasks_waits() -> None:
    async with Client(make()) as client:
        assert (await client.call_tool("whole")).structured_content == {"number": 3}


async def test_what_must_be_a_task_is_refused_to_a_client_without_tasks() -> None:
    mcp = make()
    async with Client(mcp) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("always")
        assert refused.value.code == MISSING_CAPABILITY
        assert "io.modelcontextprotocol/tasks" in refused.value.error.data["requiredCapabilities"]["extensions"]
        assert await calls_of(mcp) == []


async def test_a_task_counts_as_an_answer_so_the_same_request_is_another_call() -> None:
    async with held() as (_, client):
        assert await create(client, "wait") != await create(client, "wait")


async def test_an_idempotency_key_leads_to_the_same_task() -> None:
    async with held() as (_, client):
        first = await create(client, "wait", meta=with_key("once"))
        assert await create(client, "wait", meta=with_key("once")) == first
        await cancel_task(client.session, first)
        await ended(client.session, first)
        assert await create(client, "wait", meta=with_key("once")) == first


# --- what a task shows ----------------------------------------------------------------------------


async def test_the_result_of_a_task_is_what_a_waiting_client_would_have_got() -> None:
    mcp = make()
    async with held(mcp) as (_, holder), Client(mcp) as waiter:
        done = await ended(holder.session, await create(holder, "whole"))
        waited = await waiter.call_tool("whole")
        held_result = CallToolResult.model_validate(done.result)
        assert held_result.content == waited.content
        assert held_result.structured_content == waited.structured_content == {"number": 3}


async def test_a_tool_that_refuses_completes_its_task() -> None:
    async with held() as (_, client):
        done = await ended(client.session, await create(client, "refuses"))
        result = CallToolResult.model_validate(done.result)
        assert (done.status, result.is_error) == ("completed", True)
        assert text(result) == "Error executing tool refuses: not today"


async def test_only_an_error_of_the_protocol_fails_a_task() -> None:
    async with held() as (_, client):
        done = await ended(client.session, await create(client, "breaks_off"))
        assert (done.status, done.result) == ("failed", None)
        assert done.error == {"code": -32042, "message": "of the protocol", "data": {"why": "it says so"}}


async def test_what_a_call_says_of_itself_is_the_status_message() -> None:
    async with held() as (_, client):
        task = await create(client, "wait")

        async def says_so() -> bool:
            return (await get_task(client.session, task)).status_message == "waits"

        await until(says_so)


async def test_a_task_that_is_stuck_works_and_says_so_until_it_is_cancelled() -> None:
    async with held() as (mcp, client):
        task = await create(client, "spins")
        await status_of(mcp, task, "stuck")
        stuck = await get_task(client.session, task)
        assert (stuck.status, stuck.poll_interval_ms) == ("working", 60_000)
        assert stuck.status_message == "The call is stuck: it needs an operator. Nothing of it is lost."
        await cancel_task(client.session, task)
        assert (await ended(client.session, task)).status == "cancelled"


async def test_who_sleeps_until_tomorrow_need_not_be_asked_each_second() -> None:
    mcp = make()
    async with trial(mcp) as t, Client(mcp, extensions=[Holding()]) as client:
        short, long = await create(client, "sleeps", seconds=30), await create(client, "sleeps", seconds=86_400)
        await t.advance(timedelta(seconds=15))  # by then they have left memory
        soon = (await get_task(client.session, short)).poll_interval_ms
        late = (await get_task(client.session, long)).poll_interval_ms
        assert soon is not None
        assert 1000 < soon < 60_000
        assert late == 60_000


async def test_a_task_is_kept_for_as_long_as_it_says_and_then_never_was() -> None:
    mcp = make()
    async with trial(mcp) as t, Client(mcp, extensions=[Holding()]) as client:
        task = await create(client, "sleeps", seconds=3600)
        await t.advance(timedelta(hours=1))
        done = await get_task(client.session, task)
        assert done.ttl_ms == timedelta(hours=1, days=7) / timedelta(milliseconds=1)
        await t.advance(timedelta(days=7) - timedelta(minutes=1))
        assert (await get_task(client.session, task)).result == done.result
        await t.advance(timedelta(hours=1))
        with pytest.raises(MCPError, match="Task not found"):
            await get_task(client.session, task)


# --- cancelling -----------------------------------------------------------------------------------


async def test_a_look_at_a_call_that_is_at_work_waits_a_moment_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.protocol.tasks.MOMENT", 30.0)
    mcp = make()
    async with Client(mcp, extensions=[Holding()]) as client:
        task_id = await create(client, "wait")
        await status_of(mcp, task_id, "waiting")
        look = asyncio.create_task(get_task(client.session, task_id))
        await mcp.calls.signal(task_id, go, "went")
        assert (await look).status == "completed"


async def test_a_look_at_a_call_that_has_ended_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.protocol.tasks.MOMENT", 1e6)
    mcp = make()
    async with Client(mcp, extensions=[Holding()]) as client:
        task_id = await create(client, "wait")
        await mcp.calls.cancel(task_id)
        await status_of(mcp, task_id, "cancelled")
        assert (await get_task(client.session, task_id)).status == "cancelled"


async def test_cancelling_a_task_cancels_its_call() -> None:
    async with held() as (mcp, client):
        task = await create(client, "wait")
        assert await cancel_task(client.session, task) == {}
        done = await ended(client.session, task)
        assert (done.status, done.result, done.error) == ("cancelled", None, None)
        assert done.status_message == "The call was cancelled: by its client."
        assert (await mcp.calls.get(task)).status == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing() -> None:
    async with held() as (_, client):
        task = await create(client, "whole")
        await ended(client.session, task)
        assert await cancel_task(client.session, task) == {}
        assert (await get_task(client.session, task)).status == "completed"


# --- who may see it -------------------------------------------------------------------------------


@pytest.mark.parametrize("task_id", ["", "never-was", "0" * 32, "x" * 10_000])
async def test_an_id_that_never_was_is_not_found(task_id: str) -> None:
    async with held() as (_, client):
        for ask in VERBS:
            with pytest.raises(MCPError) as refused:
                await ask(client.session, task_id)
            assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Task not found")


async def test_a_job_is_no_task() -> None:
    mcp = make()

    @mcp.job()
    async def chore(ctx: DurableContext) -> None: ...

    async with held(mcp) as (_, client):
        call = await chore.start()
        with pytest.raises(MCPError, match="Task not found"):
            await get_task(client.session, call.id)


async def test_a_client_that_did_not_declare_tasks_cannot_ask_about_them() -> None:
    mcp = make()
    async with held(mcp) as (_, holder), Client(mcp) as other:
        task = await create(holder, "wait")
        for ask in VERBS:
            with pytest.raises(MCPError) as refused:
                await ask(other.session, task)
            assert refused.value.code == MISSING_CAPABILITY
