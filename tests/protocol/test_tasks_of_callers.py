"""Whose a task or a handle is: each request about it is checked, and another's is not found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from perdure import DurableContext, DurableMCP, Signal
from perdure.protocol.sdk import RequestContext
from tests.protocol import test_handles as handles
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.asking import asked, calls_of, text, until
from tests.protocol.mounted import client_as, mounted
from tests.protocol.tasking import (
    Holding,
    cancel_task,
    create,
    ended,
    get_task,
    listening,
    update_task,
)
from tests.protocol.test_keys_of_callers import who
from tests.protocol.wired import STATELESS

AT_ONCE = timedelta(0)
go = Signal("go", str)


def make(**options: Any) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("owned", engine="memory:", log_level="CRITICAL", principal=who, **options)

    @mcp.tool(signals=[go], handoff_after=AT_ONCE)
    async def wait(ctx: DurableContext) -> str:
        return await ctx.receive(go)

    @mcp.tool(key="ours", shared=True, signals=[go], handoff_after=AT_ONCE)
    async def ours(ctx: DurableContext) -> str:
        return await ctx.receive(go)

    return mcp


@asynccontextmanager
async def holder(url: str, user: str | None, holding: Holding | None = None) -> AsyncGenerator[Client]:
    extensions = [Holding() if holding is None else holding]
    async with client_as(url, STATELESS, user, extensions=extensions) as client:
        yield client


async def assert_not_found(client: Client, task: str) -> None:
    for asking in (
        get_task(client.session, task),
        cancel_task(client.session, task),
        update_task(client.session, task, {}),
    ):
        with pytest.raises(MCPError) as refused:
            await asking
        assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Task not found")


# --- the extension --------------------------------------------------------------------------------


async def test_another_principal_s_task_is_not_found() -> None:
    mcp = make()
    async with mounted(mcp) as url, holder(url, "ann") as ann, holder(url, "bob") as bob, holder(url, None) as nobody:
        task = await create(ann, "wait")
        await assert_not_found(bob, task)
        await assert_not_found(nobody, task)
        assert (await get_task(ann.session, task)).status == "working"


async def test_a_principal_finds_its_task_over_another_connection() -> None:
    mcp = make()
    async with mounted(mcp) as url:
        async with holder(url, "ann") as ann:
            task = await create(ann, "wait")
        async with holder(url, "ann") as ann:
            await cancel_task(ann.session, task)
            assert (await ended(ann.session, task)).status == "cancelled"


async def test_who_listens_hears_of_its_own_tasks_alone() -> None:
    mcp, holding = make(), Holding()
    async with mounted(mcp) as url, holder(url, "ann") as ann, holder(url, "bob", holding) as bob:
        anns, bobs = await create(ann, "wait"), await create(bob, "wait")
        async with listening(bob, anns, bobs):
            for task in (anns, bobs):
                await mcp.calls.signal(task, go, "on")
            await holding.until(lambda: any(news["status"] == "completed" for news in holding.news))
        assert {news["taskId"] for news in holding.news} == {bobs}


async def test_a_nobody_s_task_is_found_by_whoever_has_its_id() -> None:
    mcp = make()
    async with mounted(mcp) as url, holder(url, None) as nobody, holder(url, None) as other:
        task = await create(nobody, "wait")
        assert (await get_task(other.session, task)).status == "working"
        await cancel_task(other.session, task)
        assert (await ended(nobody.session, task)).status == "cancelled"


async def test_a_shared_task_is_cancelled_when_the_last_who_holds_it_lets_go() -> None:
    mcp = make()
    async with mounted(mcp) as url, holder(url, "ann") as ann, holder(url, "bob") as bob:
        task = await create(ann, "ours")
        assert await create(bob, "ours") == task
        await cancel_task(ann.session, task)
        await assert_not_found(ann, task)
        assert (await get_task(bob.session, task)).status == "working"
        await cancel_task(bob.session, task)

        async def is_cancelled() -> bool:
            return (await mcp.calls.get(task)).status == "cancelled"

        await until(is_cancelled)


async def test_a_nobody_does_not_cancel_what_it_shares_with_others() -> None:
    mcp = make()
    async with mounted(mcp) as url, holder(url, "ann") as ann, holder(url, None) as nobody:
        task = await create(ann, "ours")
        assert await create(nobody, "ours") == task
        assert await cancel_task(nobody.session, task) == {}
        await mcp.calls.signal(task, go, "on")
        assert (await ended(ann.session, task)).status == "completed"


async def test_a_task_that_did_not_reach_its_client_is_given_to_who_asks_again() -> None:
    came, hold = asyncio.Event(), True

    async def hold_back(ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method == "tools/call" and hold:
            came.set()
            await asyncio.Event().wait()
        return result

    mcp = make(middleware=[hold_back])
    async with mounted(mcp) as url:
        async with holder(url, "ann") as ann, asked(create(ann, "wait")):
            await came.wait()
        ((call, _),) = await calls_of(mcp)
        hold = False

        async def is_given() -> bool:
            async with holder(url, "ann") as ann:
                given = await create(ann, "wait")
            return given == call

        await until(is_given)


# --- 2025-11-25 -----------------------------------------------------------------------------------


async def test_an_old_client_finds_and_lists_its_own_tasks_alone() -> None:
    mcp = make()
    async with (
        mounted(mcp) as url,
        client_as(url, "legacy", "ann") as ann,
        client_as(url, "legacy", "bob") as bob,
    ):
        task = await legacy.create(ann, "wait")
        for ask in (legacy.get, legacy.result, legacy.cancel):
            with pytest.raises(MCPError, match="Task not found") as refused:
                await ask(bob, task)
            assert refused.value.code == INVALID_PARAMS
        assert (await legacy.listed(bob)).tasks == []
        assert [each.task_id for each in (await legacy.listed(ann)).tasks] == [task]


async def test_who_cancels_a_shared_task_lets_go_of_it_and_the_others_keep_theirs() -> None:
    mcp = make()
    async with (
        mounted(mcp) as url,
        client_as(url, "legacy", "ann") as ann,
        client_as(url, "legacy", "bob") as bob,
    ):
        task = await legacy.create(ann, "ours")
        assert await legacy.create(bob, "ours") == task
        assert (await legacy.cancel(ann, task)).status == "cancelled"
        assert (await legacy.get(bob, task)).status == "working"
        await mcp.calls.signal(task, go, "on")
        assert text(await legacy.result(bob, task)) == "on"


async def test_a_session_is_a_caller_where_nothing_better_is_known() -> None:
    mcp = make()
    async with mounted(mcp) as url, client_as(url, "legacy") as one, client_as(url, "legacy") as other:
        task = await legacy.create(one, "wait")
        assert [each.task_id for each in (await legacy.listed(one)).tasks] == [task]
        assert (await legacy.listed(other)).tasks == []
        with pytest.raises(MCPError, match="Task not found"):
            await legacy.get(other, task)


async def test_a_task_of_one_era_is_found_in_the_other_by_the_same_principal() -> None:
    mcp = make()
    async with mounted(mcp) as url, client_as(url, "legacy", "ann") as old, holder(url, "ann") as new:
        task = await legacy.create(old, "wait")
        assert (await get_task(new.session, task)).status == "working"
        await mcp.calls.signal(task, go, "on")
        assert text(await legacy.result(old, task)) == "on"


# --- handles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", STATELESS])
async def test_another_principal_s_handle_leads_nowhere(mode: str) -> None:
    mcp = make(handle_tools=True)
    async with mounted(mcp) as url, client_as(url, mode, "ann") as ann, client_as(url, mode, "bob") as bob:
        call = await handles.handle(ann, "wait")
        (looked,) = await handles.states(bob, call)
        assert looked == {"call_id": call, "status": "not_found"}
        for tool in ("cancel_call", "answer_call"):
            refused = await bob.call_tool(tool, {"call_id": call})
            assert refused.is_error
            assert text(refused).endswith(f"There is no call {call}.")
        (mine,) = await handles.states(ann, call, tool="check_calls")
        assert mine["status"] == "working"


async def test_a_nobody_comes_back_by_the_id_alone() -> None:
    mcp = make(handle_tools=True)
    async with mounted(mcp) as url, client_as(url, STATELESS) as one, client_as(url, STATELESS) as other:
        call = await handles.handle(one, "wait")
        await mcp.calls.signal(call, go, "on")
        (done,) = await handles.states(other, call)
        assert done["result"] == {"result": "on"}
