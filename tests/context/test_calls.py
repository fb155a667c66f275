"""Calls from outside: finding them, waiting for them, acting on them; and who may."""

from __future__ import annotations

from typing import Any, cast

import pytest

from perdure.calls import EVERYONE, Calls
from perdure.context import DurableContext, current_step
from perdure.engine import CallView
from perdure.errors import AlreadyAnswered, CallEnded, CallFailed, CallNotFound, NotRecordable, PerdureError, Refused
from perdure.signal import Signal
from tests.context.house import ANN, BOB, LATER, SOON, House, seen

Context = DurableContext[Any]

decision = Signal("decision", int, once=True)


async def decide(ctx: Context, n: int = 0) -> int:
    await ctx.set_status("open")
    return await ctx.receive(decision)


async def decide_together(ctx: Context) -> int:
    return await ctx.receive(decision)


@pytest.fixture
def house() -> House:
    house = House()
    house.body(decide, signals=[decision], key="decision-{n}")
    return house


# --- waiting ---


async def test_a_result_is_waited_for(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide")
        with pytest.raises(TimeoutError):
            await call.result(timeout=SOON)
        await house.calls.signal(call.id, decision, 7)
        assert await call.result(timeout=LATER) == 7
        assert await house.calls.result(call.id) == 7


async def test_without_the_code_results_are_json_and_nothing_is_started(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide")
        await house.calls.signal(call.id, decision, 7)
        without = Calls(lambda: house.engine, caller=EVERYONE)
        assert await without.result(call.id) == 7
        with pytest.raises(PerdureError, match="has its code"):
            await without.start("decide", {})


async def test_a_call_that_failed_or_was_cancelled_says_so(house: House) -> None:
    async def fail(ctx: Context) -> None:
        raise ValueError("no")

    house.body(fail)
    async with house.serving():
        with pytest.raises(CallFailed, match="ValueError: no"):
            await house.ask("fail")
        call = await house.begin("decide")
        await house.calls.cancel(call.id, reason="enough")
        with pytest.raises(CallFailed, match="enough"):
            await call.result()
        assert (await house.calls.get(call.id)).status == "cancelled"


async def test_what_failed_can_be_tried_again(house: House) -> None:
    worked: list[bool] = []

    async def fragile(ctx: Context) -> str:
        if not worked:
            raise ValueError("not yet")
        return "now"

    house.body(fragile)
    async with house.serving():
        call = await house.begin("fragile")
        with pytest.raises(CallFailed):
            await call.result()
        worked.append(True)
        again = await house.calls.retry(call.id)
        assert again.id != call.id
        assert await again.result() == "now"


# --- signals ---


async def test_a_signal_that_is_not_taken_is_refused(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide")
        with pytest.raises(Refused, match=r"takes no signal 'verdict'\. It takes: decision"):
            await house.calls.signal(call.id, "verdict", 7)
        with pytest.raises(Refused, match="does not take this value"):
            await house.calls.signal(call.id, "decision", "seven")
        with pytest.raises(Refused, match="does not take this value"):
            await house.calls.signal(call.id, decision, cast("int", "seven"))


async def test_one_decision_counts(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide")
        await house.calls.signal(call.id, decision, 7)
        with pytest.raises((AlreadyAnswered, CallEnded)) as second:
            await house.calls.signal(call.id, decision, 8)
        assert second.value.view.id == call.id
        assert await call.result() == 7
        with pytest.raises(CallEnded):
            await house.calls.signal(call.id, decision, 9)


# --- whose ---


async def test_another_callers_call_is_not_found(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide", by=ANN)
        mine, theirs = house.calls.of(ANN), house.calls.of(BOB)
        assert (await mine.get(call.id)).id == call.id
        for attempt in (
            theirs.get(call.id),
            theirs.result(call.id),
            theirs.signal(call.id, decision, 1),
            theirs.cancel(call.id),
            theirs.timeline(call.id),
            theirs.retry(call.id),
            theirs.release(call.id),
            anext(aiter(theirs.watch(call.id))),
        ):
            with pytest.raises(CallNotFound):
                await attempt
        assert (await mine.get(call.id)).status != "cancelled"


async def test_a_caller_finds_its_own_calls(house: House) -> None:
    async with house.serving():
        mine = await house.begin("decide", by=ANN, n=1)
        theirs = await house.begin("decide", by=BOB, n=2)
        assert [view.id for view in (await house.calls.of(ANN).find()).calls] == [mine.id]
        assert {view.id for view in (await house.calls.find(tool="decide")).calls} == {mine.id, theirs.id}
        assert [view.id for view in (await house.calls.find(principal="bob")).calls] == [theirs.id]


async def test_pages_follow_each_other(house: House) -> None:
    async with house.serving():
        begun = [(await house.begin("decide", n=n)).id for n in range(5)]
        found: list[str] = []
        after = None
        while True:
            page = await house.calls.find(after=after, limit=2)
            assert len(page.calls) <= 2
            found += [view.id for view in page.calls]
            after = page.next
            if after is None:
                break
        assert sorted(found) == sorted(begun)


async def test_a_key_finds_the_call_that_holds_it(house: House) -> None:
    async with house.serving():
        call = await house.begin("decide", by=ANN, n=3)

        async def holder(calls: Calls) -> str | None:
            view = await calls.lookup("decide", "decision-3")
            return view.id if view else None

        assert await holder(house.calls) == call.id
        assert await holder(house.calls.of(ANN)) == call.id
        assert await holder(house.calls.of(BOB)) is None
        assert await holder(house.calls.of(None)) is None


async def test_what_is_no_unicode_finds_nothing(house: House) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")  # as an argument of the command line may be
    async with house.serving():
        call = await house.begin("decide")
        for search in (house.calls.get, house.calls.cancel, house.calls.timeline, house.calls.result):
            with pytest.raises(CallNotFound):
                await search(name)
        assert await house.calls.lookup("decide", name) is None
        assert (await house.calls.find(tool=name)).calls == (await house.calls.find(principal=name)).calls == []
        with pytest.raises(NotRecordable):
            await house.calls.cancel(call.id, reason=name)
        with pytest.raises(NotRecordable):
            await house.calls.answer(call.id, {}, question=name)


async def test_a_shared_call_that_all_have_let_go_of_is_nobodys(house: House) -> None:
    house.body(decide_together, signals=[decision], key="together", shared=True)
    async with house.serving():
        call = await house.begin("decide_together", by=ANN)
        await house.begin("decide_together", by=BOB)
        for caller in ANN, BOB:
            assert (await house.calls.of(caller).get(call.id)).id == call.id
            await house.calls.of(caller).cancel(call.id)
        for caller in ANN, BOB, None:
            with pytest.raises(CallNotFound):
                await house.calls.of(caller).get(call.id)
        await seen(house.calls, call.id, lambda view: view.status == "cancelled")


async def test_a_shared_call_that_a_nobody_asked_for_too_is_reached_by_its_id(house: House) -> None:
    house.body(decide_together, signals=[decision], key="together", shared=True)
    async with house.serving():
        call = await house.begin("decide_together", by=ANN)
        with pytest.raises(CallNotFound):
            await house.calls.of(None).get(call.id)
        await house.begin("decide_together", by=None)
        assert (await house.calls.of(None).get(call.id)).id == call.id
        assert (await house.calls.of(BOB).find()).calls == []


async def test_a_nobodys_call_is_reached_by_its_id_and_never_listed(house: House) -> None:
    async def wait(ctx: Context) -> None:
        await ctx.sleep(LATER)

    house.body(wait)
    async with house.serving():
        call = await house.begin("wait", by=None)
        assert (await house.calls.of(None).get(call.id)).id == call.id
        assert (await house.calls.of(BOB).get(call.id)).id == call.id
        assert (await house.calls.of(None).find()).calls == []
        assert (await house.calls.of(BOB).find()).calls == []


async def test_a_shared_call_belongs_to_all_who_asked_until_the_last_lets_go(house: House) -> None:
    async def wait(ctx: Context) -> None:
        await ctx.sleep(LATER)

    house.body(wait, key="one", shared=True)
    async with house.serving():
        call = await house.begin("wait", by=ANN)
        assert (await house.begin("wait", by=BOB)).id == call.id
        await house.calls.of(ANN).cancel(call.id)
        assert (await house.calls.of(BOB).get(call.id)).status != "cancelled"
        await house.calls.of(BOB).cancel(call.id)
        await seen(house.calls, call.id, lambda view: view.status == "cancelled")


# --- in bodies and tools ---


async def test_in_a_body_verbs_are_steps(house: House) -> None:
    async def clerk(ctx: Context, call_id: str) -> list[Any]:
        view: CallView = await ctx.calls.get(call_id)
        found = await ctx.calls.lookup("decide", "decision-0")
        await ctx.calls.signal(call_id, decision, 7)
        result = await ctx.calls.result(call_id, timeout=LATER)
        try:
            await ctx.calls.signal(call_id, decision, 8)
        except (AlreadyAnswered, CallEnded) as error:
            return [view.tool, found is not None, result, error.view.id == call_id]
        return []

    house.body(clerk)
    async with house.serving():
        call = await house.begin("decide")
        clerks = await house.begin("clerk", call_id=call.id)
        assert await clerks.result() == ["decide", True, 7, True]
        names = [entry.name for entry in await house.calls.timeline(clerks.id) if entry.kind.startswith("step")]
        assert names == ["calls.get", "calls.lookup", "calls.signal", "calls.result", "calls.signal"]


async def test_who_gave_up_waiting_in_a_body_is_not_told_of_the_end(house: House) -> None:
    async def impatient(ctx: Context, call: str) -> int:
        try:
            return await ctx.calls.result(call, timeout=SOON)
        except TimeoutError:
            await ctx.set_status("gave up")
        return await ctx.receive(decision)

    house.body(impatient, signals=[decision])
    async with house.serving():
        awaited = await house.begin("decide")
        waiting = await house.begin("impatient", call=awaited.id)
        await seen(house.calls, waiting.id, lambda view: view.text == "gave up")
        await house.calls.signal(awaited.id, decision, 7)
        assert await awaited.result() == 7
        await house.calls.signal(waiting.id, decision, 8)
        assert await waiting.result() == 8
        kinds = [entry.kind for entry in await house.calls.timeline(waiting.id)]
        assert "child" in kinds
        assert "child ended" not in kinds


async def test_in_a_body_a_call_is_started_for_its_caller(house: House) -> None:
    async def starter(ctx: Context) -> list[Any]:
        own = await ctx.calls.start("decide", {"n": 1})
        await ctx.calls.signal(own.id, decision, 1)
        try:
            await house.calls.of(BOB).start("decide", {"n": 2})
        except PerdureError as refused:
            return [own.id, await own.result(), str(refused)]
        return []

    house.body(starter)
    async with house.serving():
        own, result, refused = await house.ask("starter")
        assert result == 1
        assert (await house.calls.get(own)).callers == {ANN.caller}
        assert "its own caller only" in refused


async def test_what_changes_while_it_is_read_is_not_for_bodies(house: House) -> None:
    async def curious(ctx: Context) -> list[str]:
        refused: list[str] = []
        try:
            await ctx.calls.find()
        except PerdureError as error:
            refused.append(str(error))
        try:
            async for _ in ctx.calls.watch(ctx.call_id):
                pass
        except PerdureError as error:
            refused.append(str(error))
        return refused

    house.body(curious)
    async with house.serving():
        find, watch = await house.ask("curious")
        assert find.startswith("calls.find")
        assert watch.startswith("calls.watch")


async def test_a_tool_reaches_the_calls_of_who_asks(house: House) -> None:
    async def status(call_id: str) -> str:
        return (await current_step().calls.get(call_id)).text

    house.whole(status)
    async with house.serving():
        call = await house.begin("decide", by=ANN)
        await seen(house.calls, call.id, lambda view: view.text == "open")
        assert await house.ask("status", by=ANN, call_id=call.id) == "open"
        with pytest.raises(CallFailed, match="CallNotFound"):
            await house.ask("status", by=BOB, call_id=call.id)
