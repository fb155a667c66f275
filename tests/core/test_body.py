"""A body is a function that asks, and a list of events that happened to it. No loop, no disk and no time are needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from perdure.core.body import Body
from perdure.core.codec import decode_error, encode_error
from perdure.core.commands import (
    Abandon,
    AwaitEnd,
    Command,
    Complete,
    DropTimer,
    EndCancelled,
    Fail,
    JoinCall,
    Mark,
    RunStep,
    SetStatus,
    SetTimer,
    StartChild,
    UseStore,
    Work,
)
from perdure.core.events import (
    CancelAsked,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    Fed,
    Resumed,
    Signalled,
    Started,
    StepRaised,
    StepReturned,
    StoreReturned,
    TimerFired,
)
from perdure.core.retry import ONCE
from perdure.effects import Effects, current_effects
from perdure.errors import CallNotFound, Diverged
from tests.core.bodies import Get, Job, Main, encode, step

START = Started(at=100.0, seed=1, python="3.11")


made: list[Body] = []


@pytest.fixture(autouse=True)
def _leave_no_body_behind() -> Iterator[None]:
    yield
    while made:
        made.pop().drop()


def feed(main: Main, *events: Fed, markers: tuple[tuple[str, str], ...] = ()) -> tuple[Body, list[Command]]:
    """The body after these events, and what it asked for upon the last; all before it were recorded earlier."""
    body = Body(main, call_id="c1", markers=markers, python="3.11")
    made.append(body)
    commands: list[Command] = []
    for position, event in enumerate(events):
        commands = body.feed(event, following=position < len(events) - 1)
    return body, commands


def returned(command: Command, value: object, at: float = 101.0) -> StepReturned:
    assert isinstance(command, RunStep)
    return StepReturned(command.key, command.name, command.digest, encode(value), 1, at, at)


# --- events in, commands out ----------------------------------------------------------------------


def test_a_body_asks_for_a_step_then_for_a_timer_and_then_it_ends() -> None:
    async def main(body: Body) -> bytes:
        forecast = await step(body, "fetch", "Berlin")
        await asyncio.sleep(60)
        return encode(forecast + "!")

    body = Body(main, call_id="c1")

    [fetch] = body.feed(START)
    assert isinstance(fetch, RunStep)
    assert (fetch.key, fetch.name) == ("0/1", "fetch")

    [timer] = body.feed(returned(fetch, "rain", at=105.0))
    assert timer == SetTimer("0/t1", 165.0)

    [end] = body.feed(TimerFired("0/t1", at=170.0))
    assert end == Complete(b'"rain!"')
    assert body.finish == end


def test_what_is_pending_can_be_seen_from_outside() -> None:
    async def main(body: Body) -> bytes:
        async with asyncio.timeout(5):
            await step(body, "slow")
        return b""

    body, commands = feed(main, START)
    assert list(body.pending.values()) == [command for command in commands if isinstance(command, RunStep)]
    assert body.timers == {"0/t1": 105.0}
    assert not body.is_waiting


def test_branches_ask_side_by_side_and_each_counts_for_itself() -> None:
    async def branch(body: Body, n: int) -> int:
        await step(body, "first", n)
        return await step(body, "second", n)

    async def main(body: Body) -> bytes:
        return encode(await asyncio.gather(*(branch(body, n) for n in range(3))))

    body, asked = feed(main, START)
    assert [command.key for command in asked if isinstance(command, RunStep)] == ["0.1/1", "0.2/1", "0.3/1"]
    [second] = body.feed(returned(asked[1], None))
    assert isinstance(second, RunStep)
    assert second.key == "0.2/2"


def test_wait_for_leaves_no_trace_in_the_keys() -> None:
    async def two(body: Body) -> None:
        await step(body, "first")
        await asyncio.gather(step(body, "second"))

    async def main(body: Body) -> bytes:
        await asyncio.wait_for(two(body), 5)
        await step(body, "third")
        return b""

    body, commands = feed(main, START)
    keys: list[str] = []
    while body.finish is None:
        [ask] = [command for command in commands if isinstance(command, RunStep)]
        keys.append(ask.key)
        commands = body.feed(returned(ask, None))
    assert keys == ["0/1", "0.1/1", "0/2"]


def test_keys_stay_short_however_deep_the_tasks_are() -> None:
    async def main(body: Body) -> bytes:
        async def deeper(depth: int) -> None:
            if depth:
                await asyncio.gather(step(body, "here"), deeper(depth - 1))

        await deeper(200)
        return b""

    keys = [[command.key for command in feed(main, START)[1] if isinstance(command, RunStep)] for _ in range(2)]
    assert len(set(keys[0])) == 200
    assert max(map(len, keys[0])) < 130
    assert keys[0] == keys[1]


def test_an_error_of_a_step_is_raised_in_the_body() -> None:
    async def main(body: Body) -> bytes:
        try:
            return await step(body, "pay")
        except ValueError as error:
            return encode(f"no: {error}")

    body, [pay] = feed(main, START)
    assert isinstance(pay, RunStep)
    body.feed(StepRaised(pay.key, pay.name, pay.digest, encode_error(ValueError("broke")), 3, 100.0, 101.0))
    assert body.finish == Complete(b'"no: broke"')


def test_what_the_body_raises_is_how_the_call_fails() -> None:
    async def main(body: Body) -> bytes:
        raise LookupError("nothing there")

    body, _ = feed(main, START)
    assert isinstance(body.finish, Fail)
    error = decode_error(body.finish.error)
    assert (type(error), str(error)) == (LookupError, "nothing there")


def test_a_value_that_cannot_be_decoded_is_an_error_in_the_body_alone() -> None:
    async def main(body: Body) -> bytes:
        with pytest.raises(json.JSONDecodeError):
            await step(body, "fetch")
        return b"caught"

    body, [fetch] = feed(main, START)
    assert isinstance(fetch, RunStep)
    body.feed(StepReturned(fetch.key, fetch.name, fetch.digest, b"{", 1, 100.0, 101.0))
    assert body.finish == Complete(b"caught")


def test_time_is_that_of_the_last_event_and_never_goes_back() -> None:
    seen: list[float] = []

    async def main(body: Body) -> bytes:
        for _ in range(3):
            await body.receive("tick", bytes)
            seen.append(body.now())
            assert asyncio.get_running_loop().time() == body.now()
        return b""

    feed(
        main,
        START,
        Signalled("tick", b"", 200.0),
        Signalled("tick", b"", 150.0),
        Resumed(300.0),
        Signalled("tick", b"", 300.5),
    )
    assert seen == [200.0, 200.0, 300.5]


def test_a_sleep_of_nothing_is_no_timer() -> None:
    async def main(body: Body) -> bytes:
        await asyncio.sleep(0)
        return b""

    assert feed(main, START)[1] == [Complete(b"")]


def test_chance_is_the_same_in_every_life() -> None:
    async def main(body: Body) -> bytes:
        return encode([body.random.random() for _ in range(3)])

    assert feed(main, START)[0].finish == feed(main, START)[0].finish
    assert feed(main, Started(100.0, 2, "3.11"))[0].finish != feed(main, START)[0].finish


def test_a_body_is_the_effects_of_what_runs_in_it() -> None:
    async def main(body: Body) -> bytes:
        effects: Effects = body
        assert current_effects() is effects
        return b"seen"

    assert feed(main, START)[0].finish == Complete(b"seen")
    assert current_effects() is None


# --- giving up ------------------------------------------------------------------------------------


def test_a_step_that_the_body_gives_up_is_abandoned() -> None:
    async def main(body: Body) -> bytes:
        try:
            async with asyncio.timeout(5):
                await step(body, "slow")
        except TimeoutError:
            return await body.store("notes", Get("late"))
        return b""

    body, _ = feed(main, START)
    abandoned, instead = body.feed(TimerFired("0/t1", 105.0))
    assert abandoned == Abandon("0/1")
    assert isinstance(instead, UseStore)
    assert list(body.pending) == ["0/2"]


def test_what_is_asked_and_given_up_in_one_feed_was_never_asked() -> None:
    async def main(body: Body) -> bytes:
        late = asyncio.create_task(step(body, "slow"))
        nap = asyncio.create_task(asyncio.sleep(9))
        await asyncio.sleep(0)
        late.cancel()
        nap.cancel()
        await asyncio.wait([late, nap])
        return await step(body, "next")

    body, commands = feed(main, START)
    assert [(type(command), getattr(command, "key", "")) for command in commands] == [(RunStep, "0/1")]
    assert not body.timers


def test_a_timer_that_is_no_longer_needed_is_dropped() -> None:
    async def main(body: Body) -> bytes:
        async with asyncio.timeout(5):
            await step(body, "fast")
        await body.receive("never", bytes)
        return b""

    body, [_, fast] = feed(main, START)
    assert body.feed(returned(fast, None)) == [DropTimer("0/t1")]
    assert body.is_waiting


def test_tasks_that_the_body_left_are_cancelled_and_the_call_ends_when_they_have() -> None:
    async def ticks(body: Body) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await step(body, "stop")

    async def main(body: Body) -> bytes:
        kept = asyncio.create_task(ticks(body))
        await step(body, "work")
        return encode(kept.done())

    body, [work, _] = feed(main, START)
    dropped, stop = body.feed(returned(work, None))
    assert dropped == DropTimer("0.1/t1")
    assert body.finish is None
    assert body.feed(returned(stop, None)) == [Complete(b"false")]


def test_a_task_that_cleans_up_already_is_not_cancelled_again_when_the_body_returns() -> None:
    async def main(body: Body) -> bytes:
        async def tidies_twice() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await step(body, "stop")
                await step(body, "sweep")

        kept = asyncio.create_task(tidies_twice())
        await body.receive("go", bytes)
        kept.cancel()
        await body.receive("go", bytes)
        return b""

    body, [_, stop] = feed(main, START, Signalled("go", b"", 101.0))
    assert body.feed(Signalled("go", b"", 102.0)) == []
    [sweep] = body.feed(returned(stop, None))
    assert body.feed(returned(sweep, None)) == [Complete(b"")]


def test_a_generator_that_the_body_leaves_at_its_end_is_closed_with_all_its_steps() -> None:
    async def pages(body: Body):
        try:
            yield None
        finally:
            await step(body, "close")
            await step(body, "sweep")

    async def main(body: Body) -> bytes:
        async for _ in pages(body):
            await body.receive("go", bytes)
            return b"end"
        return b""

    body, [close] = feed(main, START, Signalled("go", b"", 101.0))
    [sweep] = body.feed(returned(close, None))
    assert body.feed(returned(sweep, None)) == [Complete(b"end")]


def test_a_generator_that_is_left_by_break_is_closed_there_and_then() -> None:
    async def pages(body: Body):
        try:
            yield await step(body, "page")
            yield None
        finally:
            await step(body, "close")

    async def main(body: Body) -> bytes:
        async for _ in pages(body):
            break
        await step(body, "after")
        return b""

    body, [page] = feed(main, START)
    asked = body.feed(returned(page, None))
    assert [command.key for command in asked if isinstance(command, RunStep)] == ["0/2", "0.g1/1"]


# --- cancellation ---------------------------------------------------------------------------------


async def tidies(body: Body) -> bytes:
    try:
        await step(body, "pay")
    finally:
        await step(body, "refund")
    return b"paid"


def test_a_cancelled_body_cleans_up_with_durable_steps() -> None:
    body, _ = feed(tidies, START)
    abandoned, refund = body.feed(CancelAsked("enough", 102.0))
    assert abandoned == Abandon("0/1")
    assert body.finish is None
    body.feed(returned(refund, None))
    assert body.finish == EndCancelled()


def test_a_second_cancel_ends_the_clean_up() -> None:
    body, _ = feed(tidies, START, CancelAsked("enough", 102.0))
    assert body.feed(CancelAsked("now", 103.0)) == [Abandon("0/2"), EndCancelled()]


def test_a_second_cancel_ends_even_a_body_that_swallows_every_one() -> None:
    async def main(body: Body) -> bytes:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    body, _ = feed(main, START)
    assert body.feed(CancelAsked("enough", 102.0)) == [DropTimer("0/t1"), SetTimer("0/t2", 3702.0)]
    assert body.feed(CancelAsked("now", 103.0))[-1] == EndCancelled()


def test_a_body_that_swallows_the_cancel_and_returns_is_completed() -> None:
    async def main(body: Body) -> bytes:
        try:
            await body.receive("never", bytes)
        except asyncio.CancelledError:
            return b"all right"
        return b""

    assert feed(main, START, CancelAsked("enough", 102.0))[0].finish == Complete(b"all right")


def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    async def main(body: Body) -> bytes:
        raise asyncio.CancelledError

    assert isinstance(feed(main, START)[0].finish, Fail)


def test_a_clean_up_that_fails_is_how_the_call_ends() -> None:
    async def main(body: Body) -> bytes:
        try:
            await body.receive("never", bytes)
        finally:
            raise ValueError("cannot tidy")

    assert isinstance(feed(main, START, CancelAsked("enough", 102.0))[0].finish, Fail)


# --- signals --------------------------------------------------------------------------------------


def test_early_signals_wait_for_their_receiver_in_order() -> None:
    async def main(body: Body) -> bytes:
        await step(body, "prepare")
        return await body.receive("go", bytes) + await body.receive("go", bytes)

    body, [prepare] = feed(main, START)
    body.feed(Signalled("go", b"1", 101.0))
    body.feed(Signalled("other", b"x", 101.0))
    body.feed(Signalled("go", b"2", 101.0))
    body.feed(returned(prepare, None))
    assert body.finish == Complete(b"12")


def test_receivers_are_served_in_the_order_in_which_they_asked() -> None:
    async def main(body: Body) -> bytes:
        return b"".join(await asyncio.gather(*(body.receive("go", bytes) for _ in range(3))))

    signals = (Signalled("go", value, 101.0) for value in (b"1", b"2", b"3"))
    assert feed(main, START, *signals)[0].finish == Complete(b"123")


def test_a_cancelled_receive_takes_nothing() -> None:
    async def main(body: Body) -> bytes:
        try:
            async with asyncio.timeout(5):
                await body.receive("go", bytes)
        except TimeoutError:
            return await body.receive("go", bytes)
        return b"in time"

    body, _ = feed(main, START, TimerFired("0/t1", 105.0), Signalled("go", b"late", 106.0))
    assert body.finish == Complete(b"late")


def test_a_receive_that_is_cancelled_by_what_another_received_takes_nothing() -> None:
    async def main(body: Body) -> bytes:
        async def first() -> None:
            await body.receive("go", bytes)
            second.cancel()

        cancels = asyncio.create_task(first())
        second = asyncio.create_task(body.receive("go", bytes))
        await asyncio.wait([cancels, second])
        return await body.receive("go", bytes)

    body, _ = feed(main, START, Signalled("go", b"1", 101.0), Signalled("go", b"2", 101.0))
    assert body.finish == Complete(b"2")


def test_a_signal_alone_is_no_reason_to_stay_in_memory() -> None:
    async def main(body: Body) -> bytes:
        return await body.receive("go", bytes)

    assert feed(main, START)[0].is_waiting


# --- children and stores --------------------------------------------------------------------------


async def has_a_child(body: Body) -> bytes:
    return await body.child(Job("double", b"2"), bytes)


def started(command: Command, call_id: str) -> ChildStarted:
    assert isinstance(command, StartChild | JoinCall)
    return ChildStarted(command.key, command.name, command.digest, call_id, 101.0)


def test_a_child_is_started_and_its_end_waited_for() -> None:
    body, [start] = feed(has_a_child, START)
    assert isinstance(start, StartChild)
    assert (start.key, start.function, start.arguments, start.detached) == ("0/1", "tests:double", b"2", False)
    assert not body.is_waiting

    assert body.feed(started(start, "c2")) == []
    assert body.pending == {"0/1": AwaitEnd("0/1", "c2", own=True)}
    assert body.is_waiting

    body.feed(ChildEnded("0/1", "c2", b"4", None, 102.0))
    assert body.finish == Complete(b"4")


def test_the_failure_of_a_child_is_raised_where_it_is_waited_for() -> None:
    body, [start] = feed(has_a_child, START)
    body.feed(started(start, "c2"))
    body.feed(ChildEnded("0/1", "c2", None, encode_error(ValueError("odd")), 102.0))
    assert isinstance(body.finish, Fail)
    assert str(decode_error(body.finish.error)) == "odd"


def test_a_refused_child_is_an_error_in_the_body() -> None:
    body, [start] = feed(has_a_child, START)
    assert isinstance(start, StartChild)
    body.feed(ChildRefused(start.key, start.name, start.digest, encode_error(ValueError("no")), 101.0))
    assert isinstance(body.finish, Fail)


def test_a_child_that_is_given_up_is_abandoned_and_its_end_is_ignored() -> None:
    async def main(body: Body) -> bytes:
        try:
            async with asyncio.timeout(5):
                return await body.child(Job("double", b"2"), bytes)
        except TimeoutError:
            return await body.receive("go", bytes)

    body, [_, start] = feed(main, START)
    body.feed(started(start, "c2"))
    assert body.feed(TimerFired("0/t1", 105.0)) == [Abandon("0/1")]
    assert body.feed(ChildEnded("0/1", "c2", b"4", None, 106.0)) == []
    with pytest.raises(Diverged):
        body.feed(ChildEnded("0/1", "c2", b"4", None, 106.0))


def test_a_child_that_was_given_up_while_its_start_was_decided_still_comes_in() -> None:
    async def main(body: Body) -> bytes:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(body.child(Job("first"), bytes))
                group.create_task(body.child(Job("second"), bytes))
        except* ValueError:
            pass
        return await body.receive("go", bytes)

    body, [first, second] = feed(main, START)
    assert isinstance(first, StartChild)
    refused = ChildRefused(first.key, first.name, first.digest, encode_error(ValueError("no")), 101.0)
    assert body.feed(refused) == [Abandon("0.2/1")]
    assert body.feed(started(second, "c3")) == []
    assert body.feed(ChildEnded("0.2/1", "c3", b"", None, 102.0)) == []
    assert body.is_waiting


def test_a_detached_child_is_known_by_its_id_at_once() -> None:
    async def main(body: Body) -> bytes:
        return (await body.detach(Job("mail"))).encode()

    body, [start] = feed(main, START)
    assert isinstance(start, StartChild)
    assert start.detached
    body.feed(started(start, "c2"))
    assert body.finish == Complete(b"c2")


def test_another_call_is_joined_as_a_child_is_waited_for() -> None:
    async def main(body: Body) -> bytes:
        return await body.join("c9", bytes)

    body, [join] = feed(main, START)
    assert isinstance(join, JoinCall)
    assert join.call_id == "c9"
    body.feed(started(join, "c9"))
    assert body.pending == {"0/1": AwaitEnd("0/1", "c9", own=False)}
    body.feed(ChildEnded("0/1", "c9", b"7", None, 102.0))
    assert body.finish == Complete(b"7")


def test_joining_what_is_not_there_is_an_error_in_the_body() -> None:
    async def main(body: Body) -> bytes:
        return await body.join("c9", bytes)

    body, [join] = feed(main, START)
    assert isinstance(join, JoinCall)
    body.feed(ChildRefused(join.key, join.name, join.digest, encode_error(CallNotFound("c9")), 101.0))
    assert isinstance(body.finish, Fail)
    assert isinstance(decode_error(body.finish.error), CallNotFound)


def test_a_store_answers_with_bytes() -> None:
    async def main(body: Body) -> bytes:
        return await body.store("notes", Get("a"))

    body, [use] = feed(main, START)
    assert isinstance(use, UseStore)
    assert (use.store, use.operation) == ("notes", Get("a"))
    body.feed(StoreReturned(use.key, use.name, use.digest, b"1", 101.0))
    assert body.finish == Complete(b"1")


# --- what is said, and code that changes ----------------------------------------------------------


def test_what_a_body_says_is_said_once() -> None:
    async def main(body: Body) -> bytes:
        body.tell(SetStatus("begun", None))
        await step(body, "work")
        assert not body.replaying
        body.tell(SetStatus("worked", None))
        return b""

    _, [said, work] = feed(main, START)
    assert said == SetStatus("begun", None)
    assert feed(main, START, returned(work, None))[1] == [SetStatus("worked", None), Complete(b"")]

    again = Body(main, call_id="c1")
    assert [type(command) for command in again.feed(START, following=True)] == [RunStep]


async def patched(body: Body) -> bytes:
    for _ in range(3):
        await body.receive("go", bytes)
        if body.patched("mail instead"):
            await step(body, "mail")
    return b"end"


def go(times: int) -> list[Fed]:
    return [Signalled("go", b"", 101.0)] * times


def test_new_code_is_taken_where_nothing_is_recorded_yet() -> None:
    _, commands = feed(patched, START, *go(1))
    assert [type(command) for command in commands] == [Mark, RunStep]


def test_old_code_is_replayed_where_there_is_no_marker() -> None:
    body, commands = feed(patched, START, *go(2))
    # The first came by in replay and goes the old way; the second is new, and has a place of its own.
    assert commands[0] == Mark("0/0#2", "mail instead")
    assert list(body.pending) == ["0/1"]


def test_a_marker_is_found_again_at_its_place_and_only_there() -> None:
    body, [mark, mail] = feed(patched, START, *go(2))
    assert isinstance(mark, Mark)
    markers = ((mark.key, mark.change),)
    again, commands = feed(patched, START, *go(2), returned(mail, None), *go(1), markers=markers)
    assert [type(command) for command in commands] == [Mark, RunStep]
    assert list(again.pending) == ["0/2"]
    assert list(body.pending) == ["0/1"]


# --- divergence -----------------------------------------------------------------------------------


async def one_step(body: Body) -> bytes:
    return encode(await step(body, "fetch", "Berlin"))


def test_an_outcome_of_another_step_shows_both_sides() -> None:
    body, [fetch] = feed(one_step, START)
    assert isinstance(fetch, RunStep)
    with pytest.raises(Diverged) as caught:
        body.feed(StepReturned("0/1", "pay", "beef", b"1", 1, 100.0, 101.0))
    error = caught.value
    assert error.recorded == "StepReturned 'pay' (arguments beef) at 0/1"
    assert error.asked == f"RunStep 'fetch' (arguments {fetch.digest}) at 0/1"
    assert error.python == "3.11"


@pytest.mark.parametrize(
    "event",
    [
        StepReturned("0/1", "fetch", "other arguments", b"1", 1, 100.0, 101.0),
        StepReturned("0/7", "fetch", "", b"1", 1, 100.0, 101.0),
        StoreReturned("0/1", "fetch", "", b"1", 101.0),
        ChildStarted("0/1", "fetch", "", "c2", 101.0),
        ChildRefused("0/2", "fetch", "", b"1", 101.0),
        ChildEnded("0/1", "c2", b"1", None, 101.0),
        TimerFired("0/t1", 101.0),
        START,
    ],
    ids=repr,
)
def test_what_the_body_did_not_ask_for_diverges(event: Fed) -> None:
    body, _ = feed(one_step, START)
    with pytest.raises(Diverged) as caught:
        body.feed(event)
    assert type(event).__name__ in caught.value.recorded


def test_the_outcome_of_a_step_that_the_body_gave_up_diverges() -> None:
    body, [pay] = feed(tidies, START)
    body.feed(CancelAsked("enough", 102.0))
    with pytest.raises(Diverged):
        body.feed(returned(pay, None))


@pytest.mark.parametrize("event", [Resumed(101.0), *go(1), CancelAsked("", 101.0)], ids=repr)
def test_nothing_can_happen_to_a_body_that_has_ended_or_not_begun(event: Fed) -> None:
    async def main(body: Body) -> bytes:
        return b""

    ended, _ = feed(main, START)
    with pytest.raises(Diverged, match="has ended"):
        ended.feed(event)
    with pytest.raises(Diverged, match="has not started"):
        Body(main, call_id="c1").feed(event)


def test_what_is_recorded_and_no_longer_fits_the_code_is_a_divergence_and_no_failure() -> None:
    def does_not_fit(raw: bytes) -> int:
        raise Diverged(f"the result of a step: {raw.decode()}", "an int")

    async def main(body: Body) -> bytes:
        try:
            await body.step("count", "", Work(lambda: None, encode, ONCE), does_not_fit)
        except Diverged:
            return b'"the body made an end of it"'
        return b""

    body = Body(main, call_id="call")
    [asked] = body.feed(START)
    assert isinstance(asked, RunStep)
    with pytest.raises(Diverged):
        body.feed(StepReturned(asked.key, "count", "", b'"three"', 1, 1.0, 1.0))
    body.drop()


def test_an_event_that_an_earlier_life_was_fed_says_nothing_again() -> None:
    async def main(body: Body) -> bytes:
        assert body.replaying
        body.tell(SetStatus("working", None))
        await body.receive("never", bytes)
        return b""

    body = Body(main, call_id="call")
    assert body.feed(START, again=True) == []
    body.drop()
