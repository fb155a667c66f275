"""Steps that are not async: they run on threads, of which a worker has a few, and which nobody can stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.core.events import CancelAsked
from perdure.core.retry import Retry
from perdure.effects import Effects
from perdure.engine import Cancel, Function
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.threads import ThreadOutcome, Threads
from tests.engines.functions import AT_ONCE, body, request_for, step, whole
from tests.engines.test_engine_calls import end_of, run, seen

LONG_AGO = 1.0
"""Seconds, by which every shorter time-out has passed."""


class Hold:
    """Keeps a thread until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.let_go.wait(20)
        return "held"


class SeenThreads(Threads):
    """Shows what runs on them."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.running: list[Future[ThreadOutcome]] = []

    def run(self, function: Callable[[], Any]) -> Future[ThreadOutcome]:
        self.running.append(super().run(function))
        return self.running[-1]


async def naps(effects: Effects, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def queues_last(effects: Effects, _: None) -> str:
    return await step(effects, lambda: "last", name="last", threaded=True)


NAPS, LAST = body(naps), body(queues_last)


@pytest.fixture(params=["memory", "file"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Embedded:
    """With one thread."""
    where = "memory:" if request.param == "memory" else tmp_path / "calls.sqlite"
    return Embedded(where, threads=1, grace=timedelta(0))


@asynccontextmanager
async def occupied(engine: Embedded, *functions: Function) -> AsyncGenerator[Hold]:
    """Serve functions while the thread is in use."""
    hold = Hold()

    async def holds(effects: Effects, _: None) -> str:
        return await step(effects, hold, name="hold", threaded=True)

    holder = body(holds, check=False)
    try:
        async with engine.serve([holder, NAPS, LAST, *functions]):
            await engine.start(request_for(holder))
            assert await asyncio.to_thread(hold.begun.wait, 10)
            yield hold
    finally:
        hold.let_go.set()


async def until_quiet(engine: Embedded, hold: Hold) -> None:
    """The thread was let go, and whatever queued for it has had its turn."""
    hold.let_go.set()
    assert (await run(engine, LAST)).result == "last"


def pays(paid: list[Any]) -> Callable[[Any], Any]:
    def pay(what: Any) -> Any:
        paid.append(what)
        return what

    return pay


# --- the time of a step ---------------------------------------------------------------------------


async def test_the_time_of_a_step_begins_with_its_thread_and_not_in_the_queue(engine: Embedded) -> None:
    paid: list[int] = []

    async def buys(effects: Effects, n: int) -> int:
        return await step(effects, pays(paid), n, name="pay", threaded=True, timeout=LONG_AGO / 2, retry=AT_ONCE)

    function = body(buys)
    async with occupied(engine, function) as hold:
        calls = [(await engine.start(request_for(function, n))).call_id for n in range(3)]
        await run(engine, NAPS, LONG_AGO)
        hold.let_go.set()
        assert [(await end_of(engine, call_id)).result for call_id in calls] == [0, 1, 2]
        assert paid == [0, 1, 2]


async def test_a_step_past_its_time_keeps_its_thread_until_it_ends(engine: Embedded) -> None:
    """A retry beside it would find no thread, and its time would pass in the queue."""
    slow, ran = Hold(), 0

    def tries() -> int:
        nonlocal ran
        ran += 1
        if ran == 1:
            slow()
        return ran

    async def asks(effects: Effects, _: None) -> int:
        return await step(effects, tries, threaded=True, timeout=LONG_AGO / 2, retry=AT_ONCE)

    function = body(asks, check=False)
    async with engine.serve([function, NAPS]):
        accepted = await engine.start(request_for(function))
        await run(engine, NAPS, LONG_AGO)
        assert ran == 1
        slow.let_go.set()
        view = await end_of(engine, accepted.call_id)
        assert (view.result, ran) == (2, 2)


# --- what is given up in the queue ----------------------------------------------------------------


async def test_a_step_that_its_body_gave_up_in_the_queue_never_runs(engine: Embedded) -> None:
    paid: list[str] = []

    async def hurries(effects: Effects, _: None) -> str:
        try:
            async with asyncio.timeout(0.01):
                await step(effects, pays(paid), "twice", name="pay", threaded=True)
        except TimeoutError:
            return "gave up"
        return "paid"

    function = body(hurries)
    async with occupied(engine, function) as hold:
        assert (await run(engine, function)).result == "gave up"
        await until_quiet(engine, hold)
        assert paid == []


async def test_a_whole_step_that_is_cancelled_in_the_queue_is_cancelled_and_never_runs(engine: Embedded) -> None:
    paid: list[Any] = []
    function = whole(pays(paid), threaded=True)
    async with occupied(engine, function) as hold:
        accepted = await engine.start(request_for(function, 1, key="k"))
        await engine.deliver(accepted.call_id, Cancel("not needed"))
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        await until_quiet(engine, hold)
        assert paid == []
        assert (await run(engine, function, 1, key="k")).result == 1  # the key was free


async def test_a_whole_step_that_waits_for_its_thread_is_given_back_when_its_process_leaves(engine: Embedded) -> None:
    paid: list[Any] = []
    function = whole(pays(paid), threaded=True)
    async with occupied(engine, function):
        accepted = await engine.start(request_for(function, 1))
    assert paid == []
    async with engine.serve([function]):
        view = await end_of(engine, accepted.call_id)
        assert (view.result, paid) == (1, [1])


async def test_a_whole_step_on_its_thread_is_of_unknown_outcome_when_its_process_leaves(engine: Embedded) -> None:
    hold = Hold()
    function = whole(lambda _: hold(), threaded=True)
    try:
        async with engine.serve([function]):
            accepted = await engine.start(request_for(function))
            assert await asyncio.to_thread(hold.begun.wait, 10)
    finally:
        hold.let_go.set()
    async with engine.serve([function]):
        assert ((await end_of(engine, accepted.call_id)).error or "").startswith("OutcomeUnknown")


async def test_a_cancel_that_comes_when_the_thread_has_ended_is_too_late(engine: Embedded) -> None:
    hold = Hold()
    function = whole(lambda _: hold(), threaded=True)
    try:
        async with engine.serve([function]):
            worker = engine.worker
            assert worker is not None
            worker.threads = threads = SeenThreads(1)
            accepted = await engine.start(request_for(function))
            assert await asyncio.to_thread(hold.begun.wait, 10)
            hold.let_go.set()
            threads.running[0].result(10)  # the loop has not heard of it
            worker.live[accepted.call_id].take(CancelAsked("too late", 0.0))
            view = await end_of(engine, accepted.call_id)
            assert (view.status, view.result) == ("completed", "held")
    finally:
        hold.let_go.set()


async def test_a_step_that_runs_at_most_once_is_not_begun_while_it_waits_for_its_turn() -> None:
    engine = Embedded("memory:", threads=1)
    paid: list[str] = []
    asked = asyncio.Event()

    async def buys(effects: Effects, _: None) -> str:
        asked.set()
        return await step(effects, pays(paid), "once", name="pay", threaded=True, at_most_once=True)

    function = body(buys, check=False)
    async with occupied(engine, function) as hold:
        accepted = await engine.start(request_for(function))
        await asked.wait()
        await run(engine, NAPS, 0.01)
        await engine.crash()
        hold.let_go.set()
        view = await end_of(engine, accepted.call_id)
        assert (view.error, view.result, paid) == (None, "once", ["once"])


# --- cancels that nobody asked for ----------------------------------------------------------------


async def cancels_itself(_: Any = None) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def test_a_step_that_a_cancel_leaked_into_fails(engine: Embedded) -> None:
    async def asks(effects: Effects, _: None) -> None:
        await step(effects, cancels_itself)

    function = body(asks)
    async with engine.serve([function]):
        assert "failed with CancelledError" in ((await run(engine, function)).error or "")


async def test_a_whole_step_that_a_cancel_leaked_into_fails(engine: Embedded) -> None:
    function = whole(cancels_itself)
    async with engine.serve([function]):
        view = await run(engine, function)
        assert (view.status, (view.error or "").partition(":")[0]) == ("failed", "CancelledError")


async def test_a_cancel_that_comes_between_two_attempts_is_the_failure_of_the_step(engine: Embedded) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def fails() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        raise ConnectionError

    async def asks(effects: Effects, _: None) -> None:
        await step(effects, fails, retry=Retry(attempts=2, first=timedelta(hours=1)))

    function = body(asks)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        tasks[0].cancel()
        assert "failed with CancelledError" in ((await end_of(engine, accepted.call_id)).error or "")


def test_a_loop_that_ends_and_cancels_all_its_tasks_fails_no_step(tmp_path: Path) -> None:
    begun: list[int] = []

    async def hangs_once(n: int) -> int:
        begun.append(n)
        if len(begun) == 1:
            await asyncio.Event().wait()
        return n

    async def asks(effects: Effects, n: int) -> int:
        return await step(effects, hangs_once, n)

    function = body(asks, check=False)
    engine = Embedded(tmp_path / "calls.sqlite", grace=timedelta(0))

    async def serve(ready: asyncio.Event) -> None:
        async with engine.serve([function]):
            ready.set()
            await asyncio.Event().wait()

    async def ends_too_early() -> str:
        ready = asyncio.Event()
        serving.append(asyncio.create_task(serve(ready)))
        await ready.wait()
        accepted = await engine.start(request_for(function, 7))
        async with asyncio.timeout(10):
            while not begun:
                await asyncio.sleep(0)
        return accepted.call_id

    async def goes_on(call_id: str) -> Any:
        async with engine.serve([function]):
            return (await end_of(engine, call_id)).result

    serving: list[asyncio.Task[None]] = []
    call_id = asyncio.run(ends_too_early())
    assert asyncio.run(goes_on(call_id)) == 7
