"""What every engine does with calls. The first tests are the ones to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.core.commands import SetStatus
from perdure.core.retry import Retry, TryAgain
from perdure.effects import Effects, running_frame
from perdure.engine import (
    CallView,
    Cancel,
    Function,
    GetEntry,
    Query,
    SetEntry,
    Signal,
    SignalSpec,
    StoreReply,
    SwapEntry,
)
from perdure.engines.embedded.engine import Embedded
from perdure.errors import (
    AlreadyAnswered,
    CallEnded,
    CallNotFound,
    Conflict,
    OutcomeUnknown,
    PayloadTooLarge,
    StepFailed,
)
from tests.engines.functions import ANY, AT_ONCE, body, child_ask, request_for, step, whole

Serve = Callable[..., AbstractAsyncContextManager[Embedded]]


@pytest.fixture(params=["memory", "file"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Serve functions on a new engine."""
    where = "memory:" if request.param == "memory" else tmp_path / "calls.sqlite"
    made: list[Embedded] = []

    @asynccontextmanager
    async def serving(*functions: Function, **settings: Any) -> AsyncGenerator[Embedded]:
        engine = made[0] if made else Embedded(where, **settings)
        made[:] = [engine]
        async with engine.serve(functions):
            yield engine

    return serving


async def end_of(engine: Embedded, call_id: str) -> CallView:
    async with asyncio.timeout(10):
        async for view in engine.watch(call_id):
            if view.is_over or view.status == "stuck":
                return view
    raise AssertionError("the watch ended before the call")


async def seen(engine: Embedded, call_id: str, wanted: Callable[[CallView], bool]) -> CallView:
    async with asyncio.timeout(10):
        async for view in engine.watch(call_id):
            if wanted(view):
                return view
    raise AssertionError("the call ended without being seen like that")


async def run(engine: Embedded, function: Function, argument: Any = None, **options: Any) -> CallView:
    accepted = await engine.start(request_for(function, argument, **options))
    return await end_of(engine, accepted.call_id)


def add(a: int, b: int) -> int:
    return a + b


async def test_a_body_runs_its_steps_in_order_and_its_outcome_is_kept(serve: Serve) -> None:
    async def sums(effects: Effects, up_to: int) -> int:
        total = 0
        for n in range(up_to):
            total = await step(effects, add, total, n)
        return total

    function = body(sums)
    async with serve(function) as engine:
        view = await run(engine, function, 5)
        assert (view.status, view.result) == ("completed", 10)
        lines = [line.kind for line in await engine.timeline(view.id)]
        assert lines == ["started", *["step"] * 5, "completed"]


async def test_a_timeline_shows_the_timer_that_is_next(serve: Serve) -> None:
    async def naps(effects: Effects, _: None) -> None:
        await asyncio.sleep(86_400)

    async def waits(effects: Effects, _: None) -> None:
        await effects.receive("go", ANY.decode)

    functions = body(naps), body(waits)

    async def last_lines(engine: Embedded, calls: list[str]) -> list[tuple[str, str]]:
        return [(line.kind, line.name) for call in calls for line in (await engine.timeline(call))[-1:]]

    async with serve(*functions) as engine:
        ends_in = {"deadline": timedelta(days=1)}
        asked = [request_for(functions[0]), request_for(functions[1], **ends_in), request_for(functions[1])]
        calls = [(await engine.start(request)).call_id for request in asked]
        for call in calls:
            await seen(engine, call, lambda view: view.status == "waiting")
        (sleeps, until), (deadline, at), (nothing, _) = await last_lines(engine, calls)
        assert (sleeps, deadline, nothing) == ("sleeps until", "deadline at", "started")
        tomorrow = (await engine.get(calls[0])).created + timedelta(days=1)
        assert abs(datetime.strptime(until, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) - tomorrow) < timedelta(
            minutes=1
        )
        assert at.endswith("UTC")


async def test_times_farther_than_datetimes_go_are_shown_as_the_last_one(serve: Serve) -> None:
    async def naps(effects: Effects, _: None) -> None:
        await asyncio.sleep(timedelta.max.total_seconds())

    async def tries(effects: Effects, _: None) -> None:
        def not_yet() -> None:
            raise TryAgain("much later", after=timedelta.max)

        await step(effects, not_yet, retry=AT_ONCE)

    async def ends(effects: Effects, _: None) -> None:
        return

    functions = body(naps), body(tries), body(ends)
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    async with serve(*functions) as engine:
        asked = [
            *(request_for(function, deadline=timedelta.max, retain=timedelta.max) for function in functions),
            request_for(functions[0], after=timedelta.max),
        ]
        calls = [(await engine.start(request)).call_id for request in asked]
        for call in calls[:2]:
            await seen(engine, call, lambda view: view.status == "waiting")
        assert (await engine.timeline(calls[0]))[-1].name == "9999-12-31 23:59:59 UTC"
        assert (await engine.timeline(calls[1]))[-1].next_attempt == last
        await end_of(engine, calls[2])
        assert (await engine.get(calls[2])).expires == last
        assert len((await engine.find(Query())).calls) == 4
        assert (await engine.get(calls[3])).wakes == last


async def test_an_outcome_is_still_there_after_a_restart(serve: Serve) -> None:
    async def three(effects: Effects, _: None) -> int:
        return await step(effects, add, 1, 2)

    function = body(three)
    async with serve(function) as engine:
        view = await run(engine, function)
    async with serve(function) as engine:
        assert (await engine.get(view.id)).result == 3


async def test_a_body_that_raises_fails_its_call(serve: Serve) -> None:
    async def fails(effects: Effects, _: None) -> None:
        raise ValueError("no such place")

    function = body(fails)
    async with serve(function) as engine:
        view = await run(engine, function)
        assert view.status == "failed"
        assert view.error == "ValueError: no such place"


async def test_a_step_is_tried_again_until_it_succeeds_and_the_timeline_tells(serve: Serve) -> None:
    attempts: list[int] = []

    def flaky() -> str:
        frame = running_frame.get()
        assert frame is not None
        attempts.append(frame.attempt)
        if len(attempts) < 3:
            raise ConnectionError("refused")
        return "there"

    async def asks(effects: Effects, _: None) -> str:
        return await step(effects, flaky, retry=AT_ONCE)

    function = body(asks)
    async with serve(function) as engine:
        view = await run(engine, function)
        assert (view.result, attempts) == ("there", [1, 2, 3])
        [line] = [line for line in await engine.timeline(view.id) if line.kind == "step"]
        assert line.attempts == 3
        assert line.error == "ConnectionError: refused"


def failing_first(*errors: Exception) -> Function:
    """A body with a step that raises each of these in turn, and then is there."""
    left = list(errors)

    def flaky() -> str:
        if left:
            raise left.pop(0)
        return "there"

    async def asks(effects: Effects, _: None) -> str:
        return await step(effects, flaky, retry=AT_ONCE)

    return body(asks)


async def test_the_timeline_tells_of_the_first_error_too_where_the_last_is_another(serve: Serve) -> None:
    function = failing_first(ConnectionError("refused 1"), ConnectionError("refused 2"))
    async with serve(function) as engine:
        view = await run(engine, function)
        [line] = [line for line in await engine.timeline(view.id) if line.kind == "step"]
        assert line.error == "ConnectionError: refused 2 (at first: ConnectionError: refused 1)"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no file a\udcff"), "ValueError: no file a\\udcff"),
        (ValueError("no\x00file"), "ValueError: no\x00file"),
        (Mute(), "Mute: (its text cannot be had)"),
    ],
    ids=["no UTF-8", "a zero", "no text"],
)
async def test_a_step_is_tried_again_whatever_its_error_says(serve: Serve, error: Exception, words: str) -> None:
    function = failing_first(error)
    async with serve(function) as engine:
        view = await run(engine, function)
        assert view.result == "there"
        [line] = [line for line in await engine.timeline(view.id) if line.kind == "step"]
        assert line.error == words


async def test_a_step_that_gives_up_raises_in_the_body(serve: Serve) -> None:
    class Strange(Exception):
        def __init__(self, socket: object) -> None:
            super().__init__("strange")

    def broken() -> None:
        raise Strange(object())

    async def asks(effects: Effects, _: None) -> list[Any]:
        try:
            await step(effects, broken, retry=AT_ONCE)
        except StepFailed as failed:
            return [failed.step, failed.type, failed.message, failed.attempts]
        return []

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == ["broken", "Strange", "strange", 3]


async def test_a_known_error_of_a_step_comes_back_as_itself(serve: Serve) -> None:
    def broken() -> None:
        raise KeyError("sku")

    async def asks(effects: Effects, _: None) -> str:
        try:
            await step(effects, broken)
        except KeyError as error:
            return error.args[0]
        return ""

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == "sku"


async def test_try_again_sets_the_next_time_and_counts_as_an_attempt(serve: Serve) -> None:
    def never() -> None:
        raise TryAgain("busy", after=timedelta(0))

    async def asks(effects: Effects, _: None) -> list[Any]:
        try:
            await step(effects, never, retry=Retry(attempts=4, only_on=(OSError,)))
        except StepFailed as failed:
            return [failed.type, failed.attempts]
        return []

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == ["TryAgain", 4]


async def test_a_step_that_takes_too_long_times_out_in_each_attempt(serve: Serve) -> None:
    started: list[None] = []

    async def hangs() -> None:
        started.append(None)
        await asyncio.Event().wait()

    async def asks(effects: Effects, _: None) -> str:
        try:
            await step(effects, hangs, timeout=0.01, retry=Retry(attempts=2, first=timedelta(0)))
        except TimeoutError:
            return "late"
        return ""

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == "late"
        assert len(started) == 2


async def test_a_sync_step_runs_on_a_thread_with_its_context(serve: Serve) -> None:
    import threading

    def where() -> list[Any]:
        frame = running_frame.get()
        assert frame is not None
        return [threading.current_thread() is threading.main_thread(), frame.name]

    async def asks(effects: Effects, _: None) -> list[Any]:
        return await step(effects, where, threaded=True)

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == [False, "where"]


async def test_system_exit_and_stop_iteration_from_steps_are_ordinary_failures(serve: Serve) -> None:
    def leaves() -> None:
        raise SystemExit(3)

    def stops() -> None:
        raise StopIteration

    async def cancels() -> None:
        raise asyncio.CancelledError

    async def asks(effects: Effects, _: None) -> list[str]:
        types: list[str] = []
        for run, threaded in ((leaves, False), (leaves, True), (stops, True), (cancels, False)):
            try:
                await step(effects, run, threaded=threaded)
            except StepFailed as failed:
                types.append(failed.type)
        return types

    function = body(asks)
    async with serve(function) as engine:
        view = await run(engine, function)
        assert view.result == ["SystemExit", "SystemExit", "StopIteration", "CancelledError"]


async def test_steps_of_a_gather_run_side_by_side(serve: Serve) -> None:
    together = asyncio.Barrier(3)

    async def meets(n: int) -> int:
        async with asyncio.timeout(5):
            await together.wait()
        return n

    async def asks(effects: Effects, _: None) -> list[int]:
        return await asyncio.gather(*(step(effects, meets, n) for n in range(3)))

    function = body(asks)
    async with serve(function) as engine:
        assert (await run(engine, function)).result == [0, 1, 2]


async def test_a_sleep_is_a_durable_timer(serve: Serve) -> None:
    async def naps(effects: Effects, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"

    function = body(naps)
    async with serve(function) as engine:
        view = await run(engine, function, 0.01)
        assert view.result == "awake"
        assert "timer" in [line.kind for line in await engine.timeline(view.id)]


# --- signals --------------------------------------------------------------------------------------

DECISION = (SignalSpec("decision", True, {}),)


async def decides(effects: Effects, _: None) -> Any:
    return await effects.receive("decision", ANY.decode)


async def test_a_signal_reaches_a_call_that_waits_for_it(serve: Serve) -> None:
    function = body(decides)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function, signals=DECISION))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        await engine.deliver(accepted.call_id, Signal("decision", b'"yes"'))
        assert (await end_of(engine, accepted.call_id)).result == "yes"


async def test_a_second_decision_is_refused_with_the_state_of_the_call(serve: Serve) -> None:
    async def slow_to_read(effects: Effects, _: None) -> Any:
        await effects.receive("go", ANY.decode)
        return await decides(effects, None)

    function = body(slow_to_read)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function, signals=(*DECISION, SignalSpec("go", False, {}))))
        await engine.deliver(accepted.call_id, Signal("decision", b'"yes"'))  # early: it is buffered
        with pytest.raises(AlreadyAnswered) as refused:
            await engine.deliver(accepted.call_id, Signal("decision", b'"no"'))
        assert refused.value.view.id == accepted.call_id
        await engine.deliver(accepted.call_id, Signal("go", b"null"))
        assert (await end_of(engine, accepted.call_id)).result == "yes"
        with pytest.raises(CallEnded):
            await engine.deliver(accepted.call_id, Signal("go", b"null"))


async def test_a_timeline_is_in_the_order_of_time_also_where_the_body_reads_in_another(serve: Serve) -> None:
    async def reads_the_last_first(effects: Effects, _: None) -> None:
        await effects.receive("last", ANY.decode)
        await effects.receive("first", ANY.decode)

    function = body(reads_the_last_first)
    signals = tuple(SignalSpec(name, False, {}) for name in ("first", "last"))
    async with serve(function) as engine:
        call = (await engine.start(request_for(function, signals=signals))).call_id
        await seen(engine, call, lambda view: view.status == "waiting")
        for name in ("first", "last"):
            await engine.deliver(call, Signal(name, b"null"))
        assert (await end_of(engine, call)).status == "completed"
        lines = [(line.kind, line.name) for line in (await engine.timeline(call))[1:]]
        assert lines == [("signal", "first"), ("signal", "last"), ("completed", "")]


async def test_nothing_can_be_sent_to_a_call_that_never_was(serve: Serve) -> None:
    async with serve() as engine:
        with pytest.raises(CallNotFound):
            await engine.deliver("nobody", Cancel())
        with pytest.raises(CallNotFound):
            await engine.get("nobody")


# --- cancellation and deadlines -------------------------------------------------------------------


async def test_a_cancelled_body_cleans_up_with_durable_steps(serve: Serve) -> None:
    done: list[str] = []

    def undo() -> None:
        done.append("undone")

    async def reserves(effects: Effects, _: None) -> None:
        try:
            await effects.receive("never", ANY.decode)
        except asyncio.CancelledError:
            await step(effects, undo)
            raise

    function = body(reserves)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function))
        await engine.deliver(accepted.call_id, Cancel("changed my mind"))
        view = await end_of(engine, accepted.call_id)
        assert (view.status, done) == ("cancelled", ["undone"])
        assert "changed my mind" in (view.error or "")


async def test_a_body_that_swallows_its_cancel_and_returns_is_completed(serve: Serve) -> None:
    async def stays(effects: Effects, _: None) -> str:
        try:
            await effects.receive("never", ANY.decode)
        except asyncio.CancelledError:
            return "stayed"
        return ""

    function = body(stays)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function))
        await engine.deliver(accepted.call_id, Cancel())
        view = await end_of(engine, accepted.call_id)
        assert (view.status, view.result) == ("completed", "stayed")


async def test_a_second_cancel_ends_the_clean_up(serve: Serve) -> None:
    async def never_ends(effects: Effects, _: None) -> None:
        try:
            await effects.receive("never", ANY.decode)
        except asyncio.CancelledError:
            effects.tell(SetStatus("cleaning", None))
            await effects.receive("never", ANY.decode)

    function = body(never_ends)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function))
        await engine.deliver(accepted.call_id, Cancel("first"))
        await seen(engine, accepted.call_id, lambda view: view.text == "cleaning")
        await engine.deliver(accepted.call_id, Cancel("second"))
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"


async def test_a_deadline_cancels_with_its_name(serve: Serve) -> None:
    async def waits(effects: Effects, _: None) -> None:
        await effects.receive("never", ANY.decode)

    function = body(waits)
    async with serve(function) as engine:
        view = await run(engine, function, deadline=timedelta(milliseconds=20))
        assert view.status == "cancelled"
        assert "deadline" in (view.error or "")


# --- whole steps ----------------------------------------------------------------------------------


async def test_a_whole_step_is_one_recorded_outcome(serve: Serve) -> None:
    async def doubles(n: int) -> int:
        return n * 2

    function = whole(doubles)
    async with serve(function) as engine:
        view = await run(engine, function, 21)
        assert (view.status, view.result) == ("completed", 42)


async def test_a_whole_step_is_tried_once_unless_it_has_a_policy(serve: Serve) -> None:
    ran: list[str] = []

    def fails(name: str) -> None:
        ran.append(name)
        raise ConnectionError("refused")

    def retried(name: str) -> None:
        fails(name)

    once, thrice = whole(fails, threaded=True), whole(retried, retry=AT_ONCE)
    async with serve(once, thrice) as engine:
        assert (await run(engine, once, "once")).error == "ConnectionError: refused"
        assert (await run(engine, thrice, "thrice")).status == "failed"
        assert ran == ["once", "thrice", "thrice", "thrice"]


async def test_a_cancelled_whole_step_stops_at_its_next_await(serve: Serve) -> None:
    begun = asyncio.Event()

    async def hangs(_: None) -> None:
        begun.set()
        await asyncio.Event().wait()

    function = whole(hangs)
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function))
        await begun.wait()
        await engine.deliver(accepted.call_id, Cancel("enough"))
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"


# --- children -------------------------------------------------------------------------------------


async def doubled(effects: Effects, n: int) -> int:
    return await step(effects, add, n, n)


async def test_a_parent_gets_the_results_of_its_children(serve: Serve) -> None:
    child = body(doubled, kind="job")

    async def parent(effects: Effects, _: None) -> list[int]:
        return await asyncio.gather(*(effects.child(child_ask(child, n), ANY.decode) for n in range(3)))

    function = body(parent)
    async with serve(function, child) as engine:
        assert (await run(engine, function)).result == [0, 2, 4]
        children = (await engine.find(Query(tool="doubled"))).calls
        assert len(children) == 3


async def test_a_failed_child_raises_in_its_parent(serve: Serve) -> None:
    async def fails(effects: Effects, _: Any) -> None:
        raise ValueError("no")

    child = body(fails, kind="job")

    async def parent(effects: Effects, _: None) -> str:
        try:
            await effects.child(child_ask(child, 1), ANY.decode)
        except Exception as error:
            return f"{type(error).__name__} {getattr(error, 'type', '')}"
        return ""

    function = body(parent)
    async with serve(function, child) as engine:
        assert (await run(engine, function)).result == "CallFailed ValueError"


async def test_children_are_cancelled_with_their_parent(serve: Serve) -> None:
    async def waits(effects: Effects, _: Any) -> None:
        await effects.receive("never", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: None) -> None:
        await effects.child(child_ask(child, 1), ANY.decode)

    function = body(parent)
    async with serve(function, child) as engine:
        accepted = await engine.start(request_for(function))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        await engine.deliver(accepted.call_id, Cancel())
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        [row] = (await engine.find(Query(tool="waits"))).calls
        assert (await end_of(engine, row.id)).status == "cancelled"


async def test_two_parents_share_a_keyed_child(serve: Serve) -> None:
    ran: list[int] = []

    def once(n: int) -> int:
        ran.append(n)
        return n

    async def work(effects: Effects, n: int) -> int:
        return await step(effects, once, n)

    child = body(work, kind="job")

    async def parent(effects: Effects, _: int) -> int:
        return await effects.child(child_ask(child, 7, key="seven"), ANY.decode)

    function = body(parent)
    async with serve(function, child) as engine:
        views = await asyncio.gather(*(run(engine, function, n) for n in range(4)))
        assert [view.result for view in views] == [7] * 4
        assert ran == [7]


async def test_a_detached_child_outlives_its_parent(serve: Serve) -> None:
    child = body(doubled, kind="job")

    async def parent(effects: Effects, _: None) -> str:
        return await effects.detach(child_ask(child, 4))

    function = body(parent)
    async with serve(function, child) as engine:
        view = await run(engine, function)
        assert (await end_of(engine, view.result)).result == 8


async def test_a_detached_child_outlives_a_parent_that_waits_for_it(serve: Serve) -> None:
    async def waits(effects: Effects, _: Any) -> str:
        return await effects.receive("go", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: None) -> None:
        await effects.join(await effects.detach(child_ask(child, 1)), ANY.decode)

    function = body(parent)
    async with serve(function, child) as engine:
        accepted = await engine.start(request_for(function))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        await engine.deliver(accepted.call_id, Cancel())
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        [row] = (await engine.find(Query(tool="waits"))).calls
        await engine.deliver(row.id, Signal("go", b'"on"'))
        assert (await end_of(engine, row.id)).result == "on"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_keyed_child_is_cancelled_with_the_last_of_its_parents(serve: Serve, order: tuple[int, int]) -> None:
    async def waits(effects: Effects, _: Any) -> None:
        await effects.receive("never", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: int) -> None:
        await effects.child(child_ask(child, 7, key="seven"), ANY.decode)

    function = body(parent)
    async with serve(function, child) as engine:
        parents = [(await engine.start(request_for(function, n))).call_id for n in range(2)]
        for call_id in parents:
            await seen(engine, call_id, lambda view: view.status == "waiting")
        [row] = (await engine.find(Query(tool="waits"))).calls
        first, last = (parents[n] for n in order)
        await engine.deliver(first, Cancel())
        await end_of(engine, first)
        view = await engine.get(row.id)
        assert (view.is_over, (await engine.find(Query(tool="waits"))).calls[0].parent) == (False, last)
        await engine.deliver(last, Cancel())
        assert (await end_of(engine, row.id)).status == "cancelled"


async def test_a_child_that_is_awaited_twice_goes_on_when_one_gives_up(serve: Serve) -> None:
    async def waits(effects: Effects, _: Any) -> str:
        return await effects.receive("go", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: None) -> str:
        async def awaits() -> str:
            return await effects.child(child_ask(child, 7, key="seven"), ANY.decode)

        impatient, patient = asyncio.create_task(awaits()), asyncio.create_task(awaits())
        await effects.receive("give up", ANY.decode)
        impatient.cancel()
        return await patient

    function = body(parent)
    async with serve(function, child) as engine:
        accepted = await engine.start(request_for(function))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        await engine.deliver(accepted.call_id, Signal("give up", b"1"))
        [row] = (await engine.find(Query(tool="waits"))).calls
        await engine.deliver(row.id, Signal("go", b'"done"'))
        assert (await end_of(engine, accepted.call_id)).result == "done"


async def test_a_body_can_wait_for_a_call_that_is_not_its_child(serve: Serve) -> None:
    other = body(doubled)

    async def joins(effects: Effects, call_id: str) -> int:
        return await effects.join(call_id, ANY.decode)

    function = body(joins)
    async with serve(function, other) as engine:
        accepted = await engine.start(request_for(other, 5))
        assert (await run(engine, function, accepted.call_id)).result == 10
        assert (await run(engine, function, "no-such-call")).status == "failed"


# --- stores ---------------------------------------------------------------------------------------


async def test_a_body_reads_and_writes_stores(serve: Serve) -> None:
    async def counts(effects: Effects, _: int) -> bool:
        while True:
            read = StoreReply.from_bytes(await effects.store("counts", GetEntry("", "n")))
            before = read.entries[0][1] if read.entries else None
            after = b"1" if before is None else str(int(before) + 1).encode()
            swapped = StoreReply.from_bytes(await effects.store("counts", SwapEntry("", "n", before, after)))
            if swapped.done:
                return True

    function = body(counts)
    async with serve(function) as engine:
        await asyncio.gather(*(run(engine, function, n) for n in range(8)))
        reply = await engine.store("counts", GetEntry("", "n"))
        assert reply.entries == (("n", b"8"),)
        await engine.store("counts", SetEntry("", "n", b"0"))
        assert (await engine.store("counts", GetEntry("", "n"))).entries == (("n", b"0"),)


# --- which call a request gets --------------------------------------------------------------------


async def test_one_key_is_one_call_while_it_runs_and_afterwards(serve: Serve) -> None:
    function = body(decides)
    async with serve(function) as engine:
        first = await engine.start(request_for(function, key="k", signals=DECISION))
        second = await engine.start(request_for(function, key="k", signals=DECISION))
        assert (second.call_id, second.how) == (first.call_id, "attached")
        with pytest.raises(Conflict):
            await engine.start(request_for(function, 1, key="k"))
        await engine.deliver(first.call_id, Signal("decision", b"1"))
        await end_of(engine, first.call_id)
        third = await engine.start(request_for(function, key="k"))
        assert third.call_id == first.call_id
        fourth = await engine.start(request_for(function, key="k", reuse=timedelta(0)))
        assert (await engine.lookup("decides", "k", "machine")) is not None
        assert fourth.call_id == first.call_id  # the call's own reuse counts, not the asker's


async def test_a_failed_call_frees_its_key(serve: Serve) -> None:
    async def fails(effects: Effects, _: None) -> None:
        raise ValueError

    function = body(fails)
    async with serve(function) as engine:
        first = await run(engine, function, key="k")
        second = await run(engine, function, key="k")
        assert first.id != second.id


async def test_a_whole_step_of_unknown_outcome_keeps_its_key(serve: Serve) -> None:
    def pays(_: None) -> None:
        raise OutcomeUnknown("pay", "x")

    function = whole(pays)
    async with serve(function) as engine:
        first = await run(engine, function, key="k")
        second = await engine.start(request_for(function, key="k"))
        assert second.call_id == first.id
        again = await engine.retry(first.id)
        assert again.call_id != first.id


async def test_an_orphan_is_adopted_by_the_same_caller_only(serve: Serve) -> None:
    function = body(decides)
    async with serve(function) as engine:
        first = await engine.start(request_for(function, waiting="r1"))
        twin = await engine.start(request_for(function, waiting="r2"))
        assert twin.call_id != first.call_id  # both are waited for
        engine.let_go("r1", handed=False)
        stranger = await engine.start(request_for(function, waiting="r3", caller="session:1"))
        assert stranger.call_id != first.call_id
        again = await engine.start(request_for(function, waiting="r4"))
        assert (again.call_id, again.how) == (first.call_id, "adopted")


async def test_what_was_handed_is_not_adopted(serve: Serve) -> None:
    async def says(effects: Effects, _: None) -> str:
        return "it"

    function = body(says)
    async with serve(function) as engine:
        first = await run(engine, function, waiting="r1")
        engine.let_go("r1", handed=True)
        second = await engine.start(request_for(function, waiting="r2"))
        assert second.call_id != first.id


# --- stuck ----------------------------------------------------------------------------------------


async def test_a_body_that_spins_is_stuck_and_the_others_go_on(serve: Serve) -> None:
    async def spins(effects: Effects, _: None) -> None:
        while True:
            await asyncio.sleep(0)

    spinning, other = body(spins), body(doubled)
    async with serve(spinning, other) as engine:
        stuck = await run(engine, spinning)
        assert stuck.status == "stuck"
        assert (await run(engine, other, 2)).result == 4
        await engine.deliver(stuck.id, Cancel())
        assert (await end_of(engine, stuck.id)).status == "cancelled"


# --- memory ---------------------------------------------------------------------------------------


async def test_more_calls_wait_than_fit_into_memory(serve: Serve) -> None:
    function = body(decides, check=False)
    async with serve(function, bodies_in_memory=5) as engine:
        started = [await engine.start(request_for(function, n, signals=DECISION)) for n in range(30)]
        for accepted in started:
            await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        worker = engine.worker
        assert worker is not None
        assert len(worker.live) <= 6
        for n, accepted in enumerate(started):
            await engine.deliver(accepted.call_id, Signal("decision", str(n).encode()))
        ends = [await end_of(engine, accepted.call_id) for accepted in started]
        assert [view.result for view in ends] == list(range(30))


# --- size -----------------------------------------------------------------------------------------


async def test_what_is_too_large_fails_with_the_limit_and_the_others_go_on(serve: Serve) -> None:
    def large(n: int) -> str:
        return "x" * n

    async def returns(effects: Effects, n: int) -> str:
        return large(n)

    async def steps(effects: Effects, n: int) -> str:
        return await step(effects, large, n)

    async def raises(effects: Effects, n: int) -> None:
        raise ValueError(large(n))

    async def says(effects: Effects, n: int) -> None:
        effects.tell(SetStatus("large", ANY.encode(large(n))))
        await effects.receive("never", ANY.decode)

    returning, stepping, raising, saying, other = map(body, (returns, steps, raises, says, doubled))
    async with serve(returning, stepping, raising, saying, other, payload_limit=10_000) as engine:
        for function in (returning, stepping, raising):
            view = await run(engine, function, 20_000)
            assert view.status == "failed"
            assert (view.error or "").startswith("PayloadTooLarge: ")
        assert (await run(engine, saying, 20_000)).status == "stuck"
        with pytest.raises(PayloadTooLarge):
            await engine.start(request_for(other, "x" * 20_000))
        assert (await run(engine, other, 2)).result == 4


async def test_a_call_that_is_to_begin_later_waits(serve: Serve) -> None:
    function = body(doubled, kind="job")
    async with serve(function) as engine:
        accepted = await engine.start(request_for(function, 3, after=timedelta(milliseconds=50)))
        assert (await engine.get(accepted.call_id)).status == "waiting"
        assert (await end_of(engine, accepted.call_id)).result == 6


async def test_the_first_step_of_a_child_is_not_looked_for_before_it_was_tried(serve: Serve) -> None:
    looked: list[str] = []

    async def look() -> None:
        looked.append("looked")

    async def pay() -> str:
        return "paid"

    async def child(effects: Effects, _: Any) -> str:
        return await step(effects, pay, reconcile=look)

    async def parent(effects: Effects, _: Any) -> str:
        return await effects.child(child_ask(job, None), ANY.decode)

    job, tool = body(child, kind="job"), body(parent)
    async with serve(job, tool) as engine:
        assert (await run(engine, tool)).result == "paid"
    assert looked == []


async def test_a_failed_call_that_is_retried_twice_gets_one_new_call(serve: Serve) -> None:
    async def fails_once(effects: Effects, _: Any) -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("no")
        await effects.receive("go", ANY.decode)
        return "done"

    runs: list[int] = []
    function = body(fails_once, check=False)
    async with serve(function) as engine:
        failed = await run(engine, function, signals=(SignalSpec("go", False, {}),))
        first, second = await asyncio.gather(engine.retry(failed.id), engine.retry(failed.id))
        assert first.call_id == second.call_id != failed.id
        await engine.deliver(first.call_id, Signal("go", b"1"))
        assert (await end_of(engine, first.call_id)).status == "completed"
        assert (await engine.retry(failed.id)).call_id == first.call_id


async def test_a_retried_call_that_was_delayed_has_no_more_time_than_the_first(serve: Serve) -> None:
    async def slow(effects: Effects, _: Any) -> None:
        await asyncio.sleep(1000)

    function = body(slow)
    async with serve(function) as engine:
        delayed = request_for(function, after=timedelta(seconds=0.05), deadline=timedelta(seconds=0.1))
        first = await end_of(engine, (await engine.start(delayed)).call_id)
        assert first.status == "cancelled"
        again = (await engine.retry(first.id)).call_id
        second = await end_of(engine, again)
        assert second.ended is not None
        assert (second.ended - second.created).total_seconds() < 0.14


async def test_another_idempotency_key_is_another_order_also_while_the_first_is_an_orphan(serve: Serve) -> None:
    async def order(effects: Effects, _: Any) -> str:
        await effects.receive("go", ANY.decode)
        return effects.call_id

    function = body(order)
    async with serve(function) as engine:
        first = await engine.start(request_for(function, waiting="r1", idempotency_key="order-1"))
        engine.let_go("r1", handed=False)
        second = await engine.start(request_for(function, waiting="r2", idempotency_key="order-2"))
        assert (second.how, second.call_id != first.call_id) == ("new", True)
        engine.let_go("r2", handed=False)
        again = await engine.start(request_for(function, waiting="r3"))
        assert (again.how, again.call_id) == ("adopted", first.call_id)
