"""Tasks whose calls ask something: `inputRequests` and `tasks/update`, and questions while `tasks/result` waits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ElicitResult
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP
from perdure.errors import AlreadyAnswered
from perdure.testing import trial
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.asking import asked, text, until
from tests.protocol.tasking import (
    Holding,
    Task,
    cancel_task,
    create,
    ended,
    get_task,
    listening,
    task_as,
    update_task,
)

AT_ONCE = timedelta(0)


class Name(BaseModel):
    name: str


def make() -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("asking", engine="memory:", log_level="CRITICAL")

    async def ask(ctx: DurableContext, name: str) -> str:
        said = await ctx.elicit(f"{name}?", Name, name=name)
        return said.data.name if said.action == "accept" else said.action

    @mcp.tool(handoff_after=AT_ONCE)
    async def one(ctx: DurableContext) -> str:
        return await ask(ctx, "who")

    @mcp.tool(handoff_after=AT_ONCE)
    async def two(ctx: DurableContext) -> str:
        return " ".join(await asyncio.gather(ask(ctx, "first"), ask(ctx, "last")))

    @mcp.tool(handoff_after=AT_ONCE)
    async def twice(ctx: DurableContext) -> str:
        return await ask(ctx, "who") + " " + await ask(ctx, "who")

    @mcp.tool(handoff_after=timedelta(seconds=30))
    async def asks_before(ctx: DurableContext) -> str:
        who = await ask(ctx, "who")
        await ctx.sleep(timedelta(minutes=1))
        return f"{who}, {await ask(ctx, 'whom')}"

    @mcp.tool(handoff_after=AT_ONCE)
    async def samples(ctx: DurableContext) -> str:
        return (await ctx.sample("a word?")).text

    return mcp


async def never(context: Any, params: Any) -> ElicitResult:
    raise AssertionError("tasks are answered with tasks/update")


def client_of(mcp: DurableMCP[Any], *, holding: Holding | None = None, **callbacks: Any) -> Client:
    callbacks.setdefault("elicitation_callback", never)
    return Client(mcp, extensions=[Holding() if holding is None else holding], **callbacks)


def accept(name: str) -> dict[str, Any]:
    return {"action": "accept", "content": {"name": name}}


def said(task: Task) -> str:
    return text(CallToolResult.model_validate(task.result))


async def asking(client: Client, task_id: str, *names: str) -> Task:
    """The task, once it asks these."""

    async def asks() -> bool:
        return set((await get_task(client.session, task_id)).input_requests or {}) == set(names)

    await until(asks)
    return await get_task(client.session, task_id)


# --- the extension --------------------------------------------------------------------------------


async def test_a_task_that_asks_says_what_and_goes_on_when_it_is_answered() -> None:
    async with client_of(make()) as client:
        task = await create(client, "one")
        asks = await asking(client, task, "who")
        assert asks.status == "input_required"
        assert asks.poll_interval_ms == 5000
        request = (asks.input_requests or {})["who"]
        assert request["method"] == "elicitation/create"
        assert request["params"]["message"] == "who?"
        assert request["params"]["requestedSchema"]["required"] == ["name"]
        assert await update_task(client.session, task, {"who": accept("Ada")}) == {}
        assert said(await ended(client.session, task)) == "Ada"


async def test_a_client_that_holds_tasks_needs_no_more_than_its_answers() -> None:
    holding = Holding({"first": accept("Ada"), "last": accept("Lovelace")})
    async with client_of(make(), holding=holding) as client:
        assert text(await client.call_tool("two")) == "Ada Lovelace"


async def test_answers_may_come_one_by_one() -> None:
    async with client_of(make()) as client:
        task = await create(client, "two")
        await asking(client, task, "first", "last")
        await update_task(client.session, task, {"last": accept("Lovelace")})
        still = await get_task(client.session, task)
        assert (still.input_requests or {}).keys() == {"first"}
        assert still.status == "input_required"
        await update_task(client.session, task, {"first": accept("Ada")})
        assert said(await ended(client.session, task)) == "Ada Lovelace"


async def test_names_that_are_unknown_or_answered_are_ignored() -> None:
    async with client_of(make()) as client:
        task = await create(client, "two")
        await asking(client, task, "first", "last")
        unknown = {"middle": {"neither": "this"}, "": None}
        assert await update_task(client.session, task, {**unknown, "first": accept("Ada")}) == {}
        assert await update_task(client.session, task, {"first": accept("Eve"), "last": accept("Lovelace")}) == {}
        assert said(await ended(client.session, task)) == "Ada Lovelace"
        assert await update_task(client.session, task, {"last": accept("Eve")}) == {}


@pytest.mark.parametrize("wrong", [None, 7, "Ada", [], {}, {"action": "maybe"}, {"content": {"name": "Ada"}}])
async def test_what_is_no_answer_at_all_is_refused_and_the_question_stays(wrong: Any) -> None:
    async with client_of(make()) as client:
        task = await create(client, "one")
        await asking(client, task, "who")
        with pytest.raises(MCPError, match="'who'") as refused:
            await update_task(client.session, task, {"who": wrong})
        assert refused.value.code == INVALID_PARAMS
        assert (await asking(client, task, "who")).status == "input_required"


async def test_an_answer_that_does_not_fit_is_asked_again_under_another_name() -> None:
    async with client_of(make()) as client:
        task = await create(client, "one")
        await asking(client, task, "who")
        await update_task(client.session, task, {"who": {"action": "accept", "content": {"surname": "Lovelace"}}})
        await asking(client, task, "who-2")
        await update_task(client.session, task, {"who-2": accept("Ada")})
        assert said(await ended(client.session, task)) == "Ada"


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_question_may_be_declined(action: str) -> None:
    async with client_of(make()) as client:
        task = await create(client, "one")
        await asking(client, task, "who")
        await update_task(client.session, task, {"who": {"action": action}})
        assert said(await ended(client.session, task)) == action


async def test_a_name_never_means_two_questions() -> None:
    async with client_of(make()) as client:
        task = await create(client, "twice")
        await asking(client, task, "who")
        await update_task(client.session, task, {"who": accept("Ada")})
        await asking(client, task, "who-2")
        await update_task(client.session, task, {"who": accept("Eve"), "who-2": accept("Lovelace")})
        assert said(await ended(client.session, task)) == "Ada Lovelace"


async def test_of_racing_answers_one_counts() -> None:
    mcp = make()
    async with client_of(mcp) as one, client_of(mcp) as other:
        task = await create(one, "one")
        await asking(one, task, "who")

        async def elsewhere(name: str) -> bool:
            try:
                await mcp.calls.answer(task, {"name": name})
            except AlreadyAnswered:
                return False
            return True

        _, _, first, second = await asyncio.gather(
            update_task(one.session, task, {"who": accept("one")}),
            update_task(other.session, task, {"who": accept("other")}),
            elsewhere("elsewhere"),
            elsewhere("elsewhere, too"),
        )
        assert first + second <= 1
        assert said(await ended(one.session, task)) in {"one", "other", "elsewhere", "elsewhere, too"}


async def test_what_is_asked_before_there_is_a_task_is_the_answer_to_the_request() -> None:
    mcp = make()
    told: list[str] = []

    async def ada(context: Any, params: Any) -> ElicitResult:
        told.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada"})

    holding = Holding({"whom": accept("Eve")})
    async with trial(mcp) as t, client_of(mcp, holding=holding, elicitation_callback=ada) as client:
        async with asked(client.call_tool("asks_before")) as request:
            await until(lambda: _is(told == ["who?"]))
            await t.advance(timedelta(seconds=31))
            await until(lambda: _is(len(holding.held) == 1))
            await t.advance(timedelta(seconds=30))
            assert text(await request) == "Ada, Eve"
        assert told == ["who?"]
        assert [call.id for call in (await mcp.calls.find()).calls] == holding.held


async def _is(holds: bool) -> bool:
    return holds


async def test_who_cannot_be_asked_sees_a_task_that_works_and_it_waits_for_an_answer_from_elsewhere() -> None:
    mcp = make()
    async with Client(mcp, extensions=[Holding()]) as client:
        task = await create(client, "one")
        await until(lambda: _asks(mcp, task))
        looked = await get_task(client.session, task)
        assert (looked.status, looked.input_requests) == ("working", None)
        assert looked.status_message == "The call waits for an answer: who?"
        await mcp.calls.answer(task, {"name": "Ada"})
        assert said(await ended(client.session, task)) == "Ada"


async def _asks(mcp: DurableMCP[Any], task: str) -> bool:
    return bool((await mcp.calls.get(task)).questions)


async def test_a_model_is_asked_as_a_person_is() -> None:
    async def sample(context: Any, params: Any) -> Any:
        raise AssertionError("tasks are answered with tasks/update")

    async with client_of(make(), sampling_callback=sample) as client:
        task = await create(client, "samples")
        asks = await task_as(client.session, task, "input_required")
        ((name, request),) = (asks.input_requests or {}).items()
        assert request["method"] == "sampling/createMessage"
        word = {"role": "assistant", "content": {"type": "text", "text": "perdure"}, "model": "a model"}
        await update_task(client.session, task, {name: word})
        assert said(await ended(client.session, task)) == "perdure"


async def test_a_cancelled_task_asks_nothing() -> None:
    async with client_of(make()) as client:
        task = await create(client, "one")
        await asking(client, task, "who")
        await cancel_task(client.session, task)
        done = await ended(client.session, task)
        assert (done.status, done.input_requests) == ("cancelled", None)
        assert await update_task(client.session, task, {"who": accept("Ada")}) == {}


async def test_who_listens_hears_what_a_task_asks() -> None:
    holding = Holding()
    async with client_of(make(), holding=holding) as client:
        task = await create(client, "one")
        async with listening(client, task):
            await holding.until(lambda: any("inputRequests" in news for news in holding.news))
            await update_task(client.session, task, {"who": accept("Ada")})
            await holding.until(lambda: any(news["status"] == "completed" for news in holding.news))


# --- 2025-11-25 -----------------------------------------------------------------------------------


async def test_the_questions_of_a_task_are_asked_while_its_result_is_waited_for() -> None:
    related: list[Any] = []

    async def ada(context: Any, params: Any) -> ElicitResult:
        related.append((params.message, params.meta))
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with legacy.client_of(make(), elicitation_callback=ada) as client:
        task = await legacy.create(client, "twice")
        await legacy.status(client, task, "input_required")
        assert related == []
        assert text(await legacy.result(client, task)) == "Ada Ada"
        assert [(message, meta[legacy.RELATED]) for message, meta in related] == [("who?", {"taskId": task})] * 2


async def test_a_question_that_was_not_answered_is_asked_again_when_the_result_is_waited_for_again() -> None:
    came: list[str] = []
    answers = asyncio.Event()

    async def slowly(context: Any, params: Any) -> ElicitResult:
        came.append(params.message)
        await answers.wait()
        return ElicitResult(action="accept", content={"name": "Ada"})

    mcp = make()
    async with legacy.client_of(mcp, elicitation_callback=slowly) as client:
        task = await legacy.create(client, "one")
    # That one left without having been asked. Another, of the same user, takes over.
    async with legacy.client_of(mcp, elicitation_callback=slowly) as client:
        async with asked(legacy.result(client, task)):
            await until(lambda: _is(came == ["who?"]))
        async with asked(legacy.result(client, task)) as waiting:
            await until(lambda: _is(came == ["who?", "who?"]))
            answers.set()
            assert text(await waiting) == "Ada"


async def test_an_old_client_that_cannot_be_asked_sees_a_task_that_works() -> None:
    mcp = make()
    async with legacy.client_of(mcp) as client:
        task = await legacy.create(client, "one")
        await until(lambda: _asks(mcp, task))
        assert (await legacy.get(client, task)).status == "working"
        async with asked(legacy.result(client, task)) as waiting:
            await mcp.calls.answer(task, {"name": "Ada"})
            assert text(await waiting) == "Ada"
