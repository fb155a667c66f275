"""What a body sees of its call, and a step of the step it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from perdure.context import DurableContext, current_step
from perdure.core.commands import NotifyChange, SendLog
from perdure.effects import Frame, running_frame
from perdure.errors import CallFailed, NotRecordable, PerdureError
from perdure.signal import Signal
from perdure.step import step
from tests.context.house import ANN, LATER, SOON, House, seen

Context = DurableContext[Any]


class Note(BaseModel):
    text: str = ""


@pytest.fixture
def house() -> House:
    return House()


# --- the body ---


async def test_a_body_knows_its_call(house: House) -> None:
    async def who(ctx: Context) -> list[Any]:
        return [ctx.call_id, ctx.principal.subject if ctx.principal else None, ctx.state]

    async with house.serving():
        call = await house.begin(house.body(who))
        assert await call.result() == [call.id, "ann", house.state]


async def test_time_and_chance_are_the_same_in_every_life(house: House) -> None:
    lives: list[tuple[datetime, UUID, float]] = []

    async def lucky(ctx: Context) -> None:
        lives.append((ctx.now(), ctx.uuid4(), ctx.random.random()))
        await ctx.sleep(LATER)

    async with house.serving():
        call = await house.begin(house.body(lucky))
        await seen(house.calls, call.id, lambda view: view.status == "waiting")
        await house.engine.crash()
        await house.calls.cancel(call.id)
        with pytest.raises(CallFailed):
            await call.result()
    first, *others = lives
    assert others
    assert all(life == first for life in others)
    assert first[0].tzinfo is UTC
    assert first[1].version == 4


async def test_a_sleep_until_a_time_that_has_passed_is_over_at_once(house: House) -> None:
    async def late(ctx: Context) -> bool:
        before = ctx.now()
        await ctx.sleep_until(before - LATER)
        await ctx.sleep(-LATER)
        return ctx.now() == before

    async with house.serving():
        assert await house.ask(house.body(late)) is True


async def test_a_sleep_takes_its_time(house: House) -> None:
    async def nap(ctx: Context) -> list[bool]:
        began = ctx.now()
        await ctx.sleep(SOON)
        slept = ctx.now() - began >= SOON
        await ctx.sleep_until(ctx.now() + SOON)
        return [slept, ctx.now() - began >= 2 * SOON]

    async with house.serving():
        assert await house.ask(house.body(nap)) == [True, True]


async def test_a_time_without_a_zone_is_refused(house: House) -> None:
    async def vague(ctx: Context) -> str:
        try:
            await ctx.sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001
        except ValueError as error:
            return str(error)
        return "slept"

    async with house.serving():
        assert "time zone" in await house.ask(house.body(vague))


async def test_any_callable_is_a_step_for_once(house: House) -> None:
    ran: list[int] = []

    async def double(x: int, *, by: int = 2) -> int:
        ran.append(x)
        return x * by

    def half(x: int) -> float:
        return x / 2

    async def sums(ctx: Context) -> float:
        doubled = await ctx.step(double, 4, by=3)
        halved = await ctx.step(half, doubled)
        await ctx.sleep(SOON)
        return halved

    async with house.serving():
        call = await house.begin(house.body(sums))
        assert await call.result() == 6
        assert ran == [4]
        timeline = await house.calls.timeline(call.id)
        assert [entry.name for entry in timeline if entry.kind == "step"] == ["double", "half"]


async def test_a_signal_is_received_or_its_time_is_over(house: House) -> None:
    decision = Signal("decision", bool)

    async def decide(ctx: Context) -> list[Any]:
        try:
            await ctx.receive(decision, timeout=SOON)
        except TimeoutError:
            await ctx.set_status("asked", {"for": timedelta(days=1)})
        return [await ctx.receive(decision), await ctx.receive(decision, timeout=LATER)]

    async with house.serving():
        call = await house.begin(house.body(decide, signals=[decision]))
        view = await seen(house.calls, call.id, lambda view: view.text == "asked")
        assert view.data == {"for": "P1D"}
        await house.calls.signal(call.id, decision, True)
        await house.calls.signal(call.id, "decision", False)
        assert await call.result() == [True, False]


async def test_a_signal_that_the_call_does_not_take_is_refused_where_it_is_awaited(house: House) -> None:
    async def deaf(ctx: Context) -> None:
        await ctx.receive(Signal("decision", bool))

    async with house.serving():
        with pytest.raises(CallFailed, match="Declare it: signals="):
            await house.ask(house.body(deaf))


async def test_what_a_body_says_reaches_its_clients_in_order(house: House) -> None:
    async def chatty(ctx: Context) -> None:
        await ctx.report_progress(1, 2, "half")
        await ctx.debug("starting")
        await ctx.info({"at": "work"})
        await ctx.warning("careful", logger_name="boiler")
        await ctx.error("broken")
        await ctx.notify_tools_changed()
        await ctx.notify_prompts_changed()
        await ctx.notify_resources_changed()
        await ctx.notify_resource_updated("note:///1")

    async with house.serving():
        call = await house.begin(house.body(chatty))
        await call.result()
        assert [notice.what for notice in house.notices] == [
            SendLog("debug", b'"starting"', None),
            SendLog("info", b'{"at":"work"}', None),
            SendLog("warning", b'"careful"', "boiler"),
            SendLog("error", b'"broken"', None),
            NotifyChange("tools"),
            NotifyChange("prompts"),
            NotifyChange("resources"),
            NotifyChange("resource", "note:///1"),
        ]
        progress = (await house.calls.get(call.id)).progress
        assert progress is not None
        assert (progress.progress, progress.total, progress.message) == (1, 2, "half")


async def test_what_has_no_json_is_refused_where_it_is_said(house: House) -> None:
    async def opaque(ctx: Context) -> str:
        try:
            await ctx.set_status("busy", object())
        except NotRecordable as error:
            return str(error)
        return "said"

    async with house.serving():
        assert "The data of a status cannot be recorded" in await house.ask(house.body(opaque))


NO_UNICODE = b"caf\xe9".decode(errors="surrogateescape")
"""As a file's name may be."""


@pytest.mark.parametrize("what", ["status", "progress", "resource", "question", "name of a question"])
async def test_a_text_that_is_no_unicode_is_refused_where_it_is_said(house: House, what: str) -> None:
    async def talks(ctx: Context) -> str:
        name = NO_UNICODE
        try:
            match what:
                case "status":
                    await ctx.set_status(name)
                case "progress":
                    await ctx.report_progress(1, 2, name)
                case "resource":
                    await ctx.notify_resource_updated(f"file:///{name}")
                case "question":
                    await ctx.elicit(f"Delete {name}?", Note, default=Note())
                case _:
                    await ctx.elicit("Delete it?", Note, name=name, default=Note())
        except NotRecordable as error:
            return str(error)
        return "said"

    async with house.serving():
        assert "cannot be recorded" in await house.ask(house.body(talks))


async def test_so_is_a_name_by_which_something_would_be_recorded(house: House) -> None:
    async def nothing(ctx: Context) -> None: ...

    async def keyed(ctx: Context) -> None: ...

    job, named = house.job(nothing), house.job(keyed, key=lambda: NO_UNICODE)
    store = house.store("items", str)
    called = step(name="said")(asyncio.sleep)

    async def says(ctx: Context) -> list[str]:
        refused: list[str] = []
        asks: list[Callable[[], Awaitable[Any]]] = [
            lambda: called.options(name=NO_UNICODE)(0),
            lambda: store.set(NO_UNICODE, "value"),
            lambda: store.get(NO_UNICODE),
            lambda: store.items(prefix=NO_UNICODE),
            lambda: job.options(key=NO_UNICODE)(),
            lambda: named(),
            lambda: ctx.calls.start("nothing", {}, idempotency_key=NO_UNICODE),
        ]
        for ask in asks:
            with pytest.raises(NotRecordable) as error:
                await ask()
            refused.append(error.value.what)
        with pytest.raises(NotRecordable) as error:
            ctx.patched(NO_UNICODE)
        return [*refused, error.value.what]

    async with house.serving():
        assert await house.ask(house.body(says)) == [
            "The name of a step",
            *["A key of store 'items'"] * 3,
            *["A call's key"] * 2,
            "An idempotency key",
            "The name of a change",
        ]


async def test_the_log_is_silent_in_replay_and_carries_the_call(house: House, caplog: pytest.LogCaptureFixture) -> None:
    lives: list[str] = []

    async def talkative(ctx: Context) -> None:
        ctx.log.info("begun", extra={"part": 1})
        await ctx.sleep(SOON)
        lives.append(ctx.call_id)
        if len(lives) == 1:
            await ctx.set_status("asleep")
            await ctx.sleep(LATER)

    caplog.set_level(logging.INFO, "perdure.house")
    async with house.serving():
        call = await house.begin(house.body(talkative))
        await seen(house.calls, call.id, lambda view: view.text == "asleep")
        await house.engine.crash()
        await call.result()
    assert len(lives) == 2
    records = [record for record in caplog.records if record.message == "begun"]
    assert [(record.__dict__["call_id"], record.__dict__["part"]) for record in records] == [(call.id, 1)]


async def test_a_context_is_refused_outside_its_body(house: House) -> None:
    async def leaky(ctx: Context) -> str:
        async def inner() -> str:
            try:
                await ctx.sleep(SOON)
            except PerdureError as error:
                return str(error)
            return "slept"

        return await ctx.step(inner)

    async with house.serving():
        assert "used outside its body" in await house.ask(house.body(leaky))


# --- the step ---


async def test_a_step_knows_itself(house: House) -> None:
    async def inner() -> list[Any]:
        me = current_step()
        await me.report_progress(1)
        principal = me.principal.subject if me.principal else None
        return [
            me.call_id,
            me.name,
            me.attempt,
            len(me.idempotency_key),
            principal,
            me.state,
            (await me.calls.get(me.call_id)).id,
        ]

    async def outer(ctx: Context) -> Any:
        return await ctx.step(inner)

    async with house.serving():
        call = await house.begin(house.body(outer))
        assert await call.result() == [call.id, "inner", 1, 32, "ann", house.state, call.id]


async def test_a_tool_without_a_context_is_a_step_as_well(house: House) -> None:
    async def tool() -> list[Any]:
        me = current_step()
        return [me.call_id, me.name, me.principal.subject if me.principal else None]

    async with house.serving():
        call = await house.begin(house.whole(tool))
        assert await call.result() == [call.id, "tool", "ann"]


async def test_a_body_is_no_step(house: House) -> None:
    async def confused(ctx: Context) -> None:
        current_step()

    async with house.serving():
        with pytest.raises(CallFailed, match="it has its DurableContext"):
            await house.ask(house.body(confused))


def test_outside_of_everything_there_is_no_step() -> None:
    with pytest.raises(PerdureError, match="No step runs here"):
        current_step()


async def test_an_ordinary_tool_has_no_id_and_no_key(house: House) -> None:
    async def ordinary() -> None:
        running_frame.set(Frame(house, ANN.caller, ANN, name="peek"))
        me = current_step()
        assert (me.principal, me.state) == (ANN, house.state)
        await me.report_progress(1)
        with pytest.raises(PerdureError, match="peek is not recorded, so it has no call id"):
            _ = me.call_id
        with pytest.raises(PerdureError, match="no idempotency key"):
            _ = me.idempotency_key

    await asyncio.create_task(ordinary())
