"""Between two commits: what arrives, ends or is given up there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.core.retry import TryAgain
from perdure.effects import Effects
from perdure.engine import Answer, CallView, Cancel, Function, Query, SetEntry, StoreReply, SwapEntry
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import Append, Deliver, Journal, Read, T, Then, Write
from perdure.engines.embedded.memory import MemoryJournal
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.errors import Continued
from tests.crash.memory import Died, InTheDark, LeapingClock, Side
from tests.engines.functions import ANY, AT_ONCE, body, child_ask, request_for, step, whole
from tests.engines.test_questions import YES, ask


async def end_of(engine: Embedded, call_id: str) -> CallView:
    async with asyncio.timeout(10):
        async for view in engine.watch(call_id):
            if view.is_over or view.status == "stuck":
                return view
    raise AssertionError("the watch ended before the call")


async def until_waiting(engine: Embedded, call_id: str) -> None:
    async with asyncio.timeout(10):
        async for view in engine.watch(call_id):
            if view.status == "waiting":
                return


async def child_of(engine: Embedded, tool: str) -> CallView:
    async with asyncio.timeout(10):
        while not (found := (await engine.find(Query(tool=tool))).calls):
            await asyncio.sleep(0)
    return found[0]


async def test_a_body_that_asks_the_database_first_is_not_sent_away_for_want_of_room() -> None:
    async def keeps(effects: Effects, n: int) -> int:
        await effects.store("things", SetEntry("", str(n), b"1"))
        return n

    function = body(keeps, check=False)
    engine = Embedded("memory:", bodies_in_memory=1)
    async with engine.serve([function]):
        started = await asyncio.gather(*(engine.start(request_for(function, n)) for n in range(5)))
        assert [(await end_of(engine, each.call_id)).result for each in started] == [0, 1, 2, 3, 4]


async def test_a_whole_step_that_waits_for_its_next_attempt_leaves_memory_and_comes_back() -> None:
    attempts: list[int] = []

    def busy(n: int) -> int:
        attempts.append(n)
        if attempts.count(n) < 2:
            raise TryAgain("busy", after=timedelta(milliseconds=30))
        return n

    function = whole(busy, retry=AT_ONCE)
    engine = Embedded("memory:", bodies_in_memory=1)
    async with engine.serve([function]):
        started = [await engine.start(request_for(function, n)) for n in range(4)]
        assert [(await end_of(engine, each.call_id)).result for each in started] == [0, 1, 2, 3]


async def test_what_a_step_came_to_is_kept_when_the_body_spins_upon_it() -> None:
    ran: list[str] = []
    fits = False

    def pay() -> str:
        ran.append("paid")
        return "paid"

    async def spins(effects: Effects, _: None) -> str:
        paid = await step(effects, pay, at_most_once=True)
        while not fits:
            await asyncio.sleep(0)
        return paid

    function = body(spins, check=False)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function))
        assert (await end_of(engine, accepted.call_id)).status == "stuck"
        fits = True
        await engine.retry(accepted.call_id)
        async with asyncio.timeout(10):
            while (view := await engine.get(accepted.call_id)).status != "completed":
                await asyncio.sleep(0)
        assert (view.result, ran) == ("paid", ["paid"])


async def test_a_cancel_that_comes_while_a_call_becomes_stuck_ends_it() -> None:
    def probe(name: str, side: str) -> None:
        if (name, side) == ("MarkStuck", "before"):
            journal.probe = None
            journal.write(Deliver("spinning", Cancel("enough"), 0.0), lambda _result, _error: None)

    async def endless(effects: Effects, _: None) -> None:
        await step(effects, str)
        while True:
            await asyncio.sleep(0)

    journal = MemoryJournal(probe=probe)
    function = body(endless, check=False)
    engine = InTheDark(journal, None)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, call_id="spinning"))
        view = await end_of(engine, accepted.call_id)
        assert (view.status, view.error) == ("cancelled", "PerdureError: cancelled: enough")


async def test_a_stuck_child_is_ended_with_its_parent() -> None:
    async def spinning(effects: Effects, _: Any) -> None:
        while True:
            await asyncio.sleep(0)

    child = body(spinning, kind="job", check=False)

    async def parent(effects: Effects, _: None) -> None:
        await effects.child(child_ask(child, 1), ANY.decode)

    function = body(parent)
    engine = Embedded("memory:")
    async with engine.serve([function, child]):
        accepted = await engine.start(request_for(function))
        stuck = await child_of(engine, "spinning")
        assert (await end_of(engine, stuck.id)).status == "stuck"
        await engine.deliver(accepted.call_id, Cancel())
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        assert (await engine.get(stuck.id)).status == "cancelled"


async def test_a_keyed_child_goes_on_while_another_parent_waits_for_it() -> None:
    async def waits(effects: Effects, _: Any) -> Any:
        return await effects.receive("go", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: int) -> Any:
        return await effects.child(child_ask(child, 1, key="one"), ANY.decode)

    function = body(parent)
    engine = Embedded("memory:")
    async with engine.serve([function, child]):
        first = await engine.start(request_for(function, 1))
        shared = await child_of(engine, "waits")
        second = await engine.start(request_for(function, 2))
        await until_waiting(engine, second.call_id)
        await engine.deliver(first.call_id, Cancel())
        assert (await end_of(engine, first.call_id)).status == "cancelled"
        assert not (await engine.get(shared.id)).is_over
        await engine.deliver(second.call_id, Cancel())
        assert (await end_of(engine, second.call_id)).status == "cancelled"


async def dies_again(function: Function, seconds_down: float) -> CallView:
    """A step hangs whenever its process dies."""
    clock = LeapingClock()
    journal = MemoryJournal(clock=clock.now)
    engine = InTheDark(journal, clock)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function))
        for _ in range(6):
            for _ in range(20):
                await asyncio.sleep(0)
            clock.leap_by(seconds_down)
            await engine.crash()
        return await end_of(engine, accepted.call_id)


async def hangs() -> None:
    await asyncio.Event().wait()


async def test_a_step_that_kills_its_process_is_stuck_however_long_the_process_was_down() -> None:
    async def fatal(effects: Effects, _: None) -> None:
        await step(effects, hangs)

    for seconds_down in (0.0, 60.0):
        view = await dies_again(body(fatal), seconds_down)
        assert view.status == "stuck"
        assert "its process died 5 times while hangs ran" in (view.error or "")


async def test_a_whole_step_that_kills_its_process_again_and_again_is_stuck() -> None:
    async def fatal_whole(_: None) -> None:
        await hangs()

    view = await dies_again(whole(fatal_whole, rerun=True), 60.0)
    assert view.status == "stuck"
    assert "its process died 5 times while fatal_whole ran" in (view.error or "")


class AnsweredFirst:
    """A journal in which an answer comes from elsewhere right before the first unit that withdraws its question."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.open, self.close, self.write_soon = journal.open, journal.close, journal.write_soon
        self.is_answered = False

    async def read(self, read: Read[T]) -> T:
        return await self._journal.read(read)

    def write(self, write: Write[Any], then: Then) -> None:
        if isinstance(write, Append) and write.withdrawn and not self.is_answered:
            self.is_answered = True
            self._journal.write(Deliver("asking", Answer("approve", YES), 0.0), lambda _result, _error: None)
        self._journal.write(write, then)

    @property
    def changed_elsewhere(self) -> bool:
        return self._journal.changed_elsewhere


@pytest.fixture(params=["memory", "file"])
def answered_first(request: pytest.FixtureRequest, tmp_path: Path) -> AnsweredFirst:
    return AnsweredFirst(MemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "calls.sqlite"))


async def answer_in_time(effects: Effects) -> bool:
    try:
        async with asyncio.timeout(0.01):
            return await ask(effects) == json.loads(YES)
    except TimeoutError:
        return False


async def returns(effects: Effects, _: Any) -> str:
    return "answered" if await answer_in_time(effects) else "late"


async def goes_on(effects: Effects, _: Any) -> str:
    answered = await answer_in_time(effects)
    return await step(effects, lambda: "answered" if answered else "late", name="goes on")


async def does_not_stop(effects: Effects, is_late: bool) -> str:
    if is_late or await answer_in_time(effects):
        return "late" if is_late else "answered"
    raise Continued(b"true")


async def has_branches(effects: Effects, _: Any) -> str:
    """What the others ask for in the same moment is done once."""

    async def sets(key: str) -> bool:
        await asyncio.sleep(0.01)
        return StoreReply.from_bytes(await effects.store("things", SwapEntry("", key, None, b"1"))).done

    answered, *were_first = await asyncio.gather(answer_in_time(effects), sets("a"), sets("b"))
    assert were_first == [True, True]
    return "answered" if answered else "late"


@pytest.mark.parametrize("asks", [returns, goes_on, does_not_stop, has_branches])
async def test_an_answer_that_comes_while_its_time_out_is_written_counts(
    answered_first: AnsweredFirst, asks: Callable[[Effects, Any], Any]
) -> None:
    function = body(asks)
    engine = InTheDark(answered_first, None)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, call_id="asking"))
        view = await end_of(engine, accepted.call_id)
        assert answered_first.is_answered
        assert (view.result, view.error) == ("answered", None)


async def test_a_step_that_runs_is_not_interrupted_for_an_answer_that_comes_while_its_time_out_is_written(
    answered_first: AnsweredFirst,
) -> None:
    ran, may_end = list[str](), asyncio.Event()

    async def pays() -> str:
        ran.append("paid")
        await may_end.wait()
        return "paid"

    async def has_a_step(effects: Effects, _: Any) -> tuple[str, bool]:
        async def asks() -> bool:
            answered = await answer_in_time(effects)
            may_end.set()
            return answered

        return await asyncio.gather(step(effects, pays, at_most_once=True), asks())

    function = body(has_a_step)
    engine = InTheDark(answered_first, None)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, call_id="asking"))
        view = await end_of(engine, accepted.call_id)
        assert (view.result, ran) == (["paid", False], ["paid"])


@pytest.mark.parametrize("side", ["before", "after"])
async def test_an_answer_that_comes_while_its_time_out_is_written_counts_after_a_crash(side: Side) -> None:
    died = asyncio.Event()

    def probe(name: str, when: Side) -> None:
        if name != "Append" or died.is_set():
            return
        if when == "before":
            journal.probe = None
            journal.write(Deliver("asking", Answer("approve", YES), 0.0), lambda _result, _error: None)
            journal.probe = probe
        if when == side:
            died.set()
            raise Died

    async def answered(effects: Effects, _: Any) -> str:
        return "answered" if await answer_in_time(effects) else "late"

    journal = MemoryJournal()
    function = body(answered)
    engine = InTheDark(journal, None)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, call_id="asking"))
        await until_waiting(engine, accepted.call_id)
        journal.probe = probe
        async with asyncio.timeout(10):
            await died.wait()
        await engine.crash()
        view = await end_of(engine, accepted.call_id)
        assert (view.result, view.error) == ("answered", None)
