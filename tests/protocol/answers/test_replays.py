"""What clients have to come back with, used twice, by two, or for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, InputRequiredResult
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Signal
from perdure.testing import Trial, trial
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.answers.person import Person, answer_of
from tests.protocol.asking import asked, calls_of, text, until
from tests.protocol.tasking import CreatedTask, Holding, create, ended, get_task
from tests.protocol.wired import STATELESS

LATER = timedelta(seconds=30)
go = Signal("go", str)


class Decision(BaseModel):
    by: str


def make() -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("replays", engine="memory:", log_level="CRITICAL")

    @mcp.tool(handoff_after=LATER, signals=[go])
    async def decide(ctx: DurableContext) -> str:
        said = await ctx.elicit("who?", Decision)
        await ctx.receive(go)
        return said.data.by if said.action == "accept" else said.action

    @mcp.tool(handoff_after=timedelta(0))
    async def decide_at_leisure(ctx: DurableContext) -> str:
        said = await ctx.elicit("who?", Decision)
        return said.data.by if said.action == "accept" else said.action

    return mcp


@asynccontextmanager
async def stateless() -> AsyncGenerator[tuple[Trial, DurableMCP[Any], Client]]:
    mcp, person = make(), Person()
    async with (
        trial(mcp) as t,
        Client(mcp, mode=STATELESS, extensions=[Holding()], elicitation_callback=person.elicit) as client,
    ):
        yield t, mcp, client


async def a_round(client: Client, tool: str = "decide", state: str | None = None, by: Any = None) -> Any:
    answers: Any = None if by is None else {"question": answer_of(by, "form")}
    return await client.session.call_tool(
        tool, {}, allow_input_required=True, allow_claimed=True, request_state=state, input_responses=answers
    )


async def state_of(client: Client) -> str:
    reply = await a_round(client)
    assert isinstance(reply, InputRequiredResult)
    assert reply.request_state is not None
    return reply.request_state


async def test_a_state_that_comes_again_gets_the_task_that_its_request_became_and_in_the_end_the_result() -> None:
    async with stateless() as (t, mcp, client):
        state, tasks = await state_of(client), set[str]()
        for by in ("ann", "mallory"):
            async with asked(a_round(client, state=state, by=by)) as request:

                async def is_handed_off(request: asyncio.Task[Any] = request) -> bool:
                    await t.advance(LATER)
                    return request.done()

                await until(is_handed_off)
                created = await request
            assert isinstance(created, CreatedTask)
            tasks.add(created.task_id)
        (task,) = tasks
        await mcp.calls.signal(task, go, "on")
        assert (await ended(client.session, task)).status == "completed"
        assert text(await a_round(client, state=state, by="mallory")) == "ann"
        assert await calls_of(mcp) == [(task, "completed")]


async def test_the_id_of_a_task_is_no_state_and_a_state_no_id() -> None:
    async with stateless() as (_, mcp, client):
        state, task = await state_of(client), await create(client, "decide_at_leisure")
        with pytest.raises(MCPError) as refused:
            await a_round(client, "decide_at_leisure", state=task, by="ann")
        assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Invalid or expired requestState")
        with pytest.raises(MCPError) as refused:
            await get_task(client.session, state)
        assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Task not found")
        assert {status for _, status in await calls_of(mcp)} == {"waiting"}


async def test_who_waits_for_the_result_of_one_task_twice_is_asked_twice_and_answers_once() -> None:
    mcp, ann, mallory = make(), Person(), Person()
    async with (
        legacy.client_of(mcp, elicitation_callback=ann.elicit) as one,
        legacy.client_of(mcp, elicitation_callback=mallory.elicit) as other,
    ):
        task = await legacy.create(one, "decide_at_leisure")
        results = asyncio.gather(legacy.result(one, task), legacy.result(other, task))
        for person in (ann, mallory):
            await person.until_asked("who", 1)
        await ann.say("who", "ann")
        assert [text(result) for result in await results] == ["ann", "ann"]
        await mallory.say("who", "mallory")
        assert text(await legacy.result(other, task)) == "ann"


async def test_a_task_is_answered_in_the_other_era_too() -> None:
    mcp, ann = make(), Person()
    holding = Holding()
    async with (
        legacy.client_of(mcp, elicitation_callback=ann.elicit) as old,
        Client(mcp, extensions=[holding], elicitation_callback=ann.elicit) as new,
    ):
        task = await create(new, "decide_at_leisure")
        await ann.say("who", "ann")
        assert text(await legacy.result(old, task)) == "ann"
        assert (await ended(new.session, task)).status == "completed"
