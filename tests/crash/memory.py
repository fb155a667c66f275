"""Scenarios on the memory journal: a process that can die at every write, and a clock that leaps over waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

from perdure.core.body import Body
from perdure.core.call import idempotency_key
from perdure.core.commands import RunStep
from perdure.core.events import (
    Cancelled,
    Completed,
    Failed,
    Marked,
    StepLate,
    StepRaised,
    StepReturned,
)
from perdure.engine import BodyFunction, CallFacts, CallView, Function, ListEntries, Query
from perdure.engines.embedded.clock import Alarm, AlarmQueue, Clock
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import FindCalls, Journal, ReadRecord, Record, T
from perdure.engines.embedded.journal import Read as Question
from perdure.engines.embedded.memory import MemoryJournal
from perdure.errors import PerdureError
from tests.crash.corpus import Scenario
from tests.crash.outside import InMemory, check_order, outside

Side = Literal["before", "after"]
Place = tuple[int, Side]

HORIZON = 30.0
"""Seconds that the clock is moved at most for one alarm: bodies wait for less, retention for more."""


DOWN = 3.0
"""Seconds from a death to the next life."""

PATIENCE = 20.0


class Died(Exception):
    pass


class LeapingClock:
    """Stands still; when nothing else goes on it is moved to the next alarm."""

    def __init__(self) -> None:
        self._queue = AlarmQueue()
        self._now = 1_800_000_000.0

    def now(self) -> float:
        return self._now

    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm:
        return self._queue.add(when, ring)

    def close(self) -> None:
        self._queue = AlarmQueue()

    def leap_by(self, seconds: float) -> None:
        self._now += seconds

    def leap(self) -> None:
        when = self._queue.next_time()
        if when is not None and when <= self._now + HORIZON:
            self._now = max(self._now, when)
            alarm = self._queue.pop_due(self._now)
            assert alarm is not None
            if alarm.ring is not None:
                alarm.ring()


class InTheDark(Embedded):
    """An embedded engine over a journal and a clock that are given."""

    def __init__(self, journal: Journal, clock: Clock | None, **settings: Any) -> None:
        super().__init__("memory:", **settings)
        self.given = journal
        if clock is not None:
            self.make_clock = lambda: clock

    def _journal(self) -> Journal:
        return self.given


class World:
    """One scenario from its beginning to its end, through as many deaths as are planned."""

    def __init__(self, scenario: Scenario, deaths: list[Place]) -> None:
        self.scenario = scenario
        self.names: list[str] = []
        """The writes, in order."""
        self.crashed: Counter[tuple[str, Side]] = Counter()
        self.memory = outside.memory = InMemory()
        outside.unit = 1.0
        self._clock = None if scenario.on_threads else LeapingClock()
        if scenario.on_threads:
            outside.unit = 0.01
        self.journal = MemoryJournal(probe=self._pass_by, clock=self._clock.now if self._clock else time.time)
        self.engine = self._make_engine()
        self._deaths = list(deaths)
        self.stored: dict[str, str] = {}
        self.died = asyncio.Event()
        self.wrote = asyncio.Event()
        self._seen: dict[str, int] = {}
        self._done: set[int] = set()
        self.call_id = ""
        self._bystanders = set[asyncio.Task[Any]]()

    def _make_engine(self) -> Embedded:
        return InTheDark(self.journal, self._clock, **self.scenario.settings)

    async def live(self) -> None:
        async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
            self._bystanders = asyncio.all_tasks()
            await self._unless_it_dies(self._open(stack))
            while self.died.is_set():
                self.revive()
                self.engine = self._make_engine()
                await self._unless_it_dies(self._open(stack))
            await self._unless_it_dies(self._drive())
            while self.died.is_set():
                self.revive()
                await self._unless_it_dies(self.engine.crash())
                if not self.died.is_set():
                    await self._unless_it_dies(self._drive())
            worker = self.engine.worker
            assert worker is not None
            assert worker.replay_differences == []
            self.journal.probe = None  # a process that dies while it leaves has a test of its own
            entries = (await self.engine.store("things", ListEntries(self.scenario.name))).entries
            self.stored = {key: value.decode() for key, value in entries}

    async def _open(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self.engine.serve(self.scenario.functions))

    async def _unless_it_dies(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        dying = asyncio.ensure_future(self.died.wait())
        await asyncio.wait({task, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if not self.died.is_set():
            await task
            return
        await self._bury()

    async def _bury(self) -> None:
        """Everything of the dead process that waits for the journal waits for ever."""
        while remains := asyncio.all_tasks() - self._bystanders:
            for task in remains:
                task.cancel()
            await asyncio.sleep(0)

    def revive(self) -> None:
        self.died.clear()
        self.memory.is_dead = False
        if self._clock is not None:
            self._clock.leap_by(DOWN)

    # --- crash points ---

    def _pass_by(self, name: str, side: Side) -> None:
        if side == "before":
            self.names.append(name)
        if self._deaths and self._deaths[0] == (len(self.names) - 1, side):
            del self._deaths[0]
            self.crashed[name, side] += 1
            self.memory.is_dead = True
            self._look_at_journals()
            self.died.set()
            raise Died
        if side == "after":
            self._look_at_journals()
        self.wrote.set()

    def _look_at_journals(self) -> None:
        """Put into the memory of outside from when on which steps must not run any more."""
        memory, was_dead = self.memory, self.memory.is_dead
        memory.is_dead = False
        for view in self.ask(FindCalls(Query(limit=1000))).calls:
            if was_dead or view.version != self._seen.get(view.id):
                self._seen[view.id] = view.version
                record = self.ask(ReadRecord(view.id))
                function = self.function_of(view)
                done = answered_steps(record, function)
                if was_dead:
                    # In the life that gives it up a step may begin before the body hears what has been decided.
                    done |= given_up_steps(record, function)
                for key in sorted(done):
                    memory.add(f"settled {view.id} {idempotency_key(view.id, key)} {key}")
        memory.is_dead = was_dead

    def function_of(self, view: CallView) -> Function:
        return next(function for function in self.scenario.functions if function.name == view.function)

    def ask(self, question: Question[T]) -> T:
        """What the journal in memory answers at once."""
        coroutine = self.journal.read(question)
        try:
            coroutine.send(None)
        except StopIteration as answer:
            return answer.value
        raise AssertionError("it waits")

    # --- driving ---

    async def _drive(self) -> None:
        accepted = await self.engine.start(self.scenario.request())
        self.call_id = accepted.call_id
        for position, action in enumerate(self.scenario.actions):
            if position in self._done:
                continue
            await self._until(lambda action=action: action.when(self._record) or self._record.view.is_over)
            try:
                await action.do(self.engine, self._record)
            except PerdureError:
                if not self._record.view.is_over:
                    raise
            self._done.add(position)
        await self._until(self._is_over)

    @property
    def _record(self) -> Record:
        return self.ask(ReadRecord(self.call_id))

    def _is_over(self) -> bool:
        calls = self.ask(FindCalls(Query(limit=1000))).calls
        return all(view.is_over for view in calls)

    async def _until(self, holds: Callable[[], bool]) -> None:
        quiet = 0
        self.wrote.set()
        while not (self.wrote.is_set() and holds()):
            self.wrote.clear()
            await asyncio.sleep(0 if self._clock is not None else 0.001)
            quiet = 0 if self.wrote.is_set() else quiet + 1
            if quiet > 20 and self._clock is not None:
                self._clock.leap()
                quiet = 10

    def check(self) -> None:
        check_order(self.memory.lines())
        views = self.ask(FindCalls(Query(limit=1000))).calls
        view = next(view for view in views if view.id == self.call_id)
        self.scenario.check(
            view, [other for other in views if other is not view], sum(self.crashed.values()), self.memory.lines()
        )
        assert self.stored == self.scenario.stored


def answered_steps(record: Record, function: Function) -> set[str]:
    """The steps of a call whose outcome is recorded."""
    if not isinstance(function.run, BodyFunction):
        return {"0"} if record.view.is_over else set()
    return {event.key for event in record.events if isinstance(event, StepReturned | StepRaised)}


def given_up_steps(record: Record, function: Function) -> set[str]:
    if not isinstance(function.run, BodyFunction):
        return set()
    asked, pending = asks_of(record, function.run)
    return asked - pending


def asks_of(record: Record, run: BodyFunction) -> tuple[set[str], set[str]]:
    """The steps that the body asked for according to the journal, and those that it still waits for."""
    view = record.view
    facts = CallFacts(view.id, view.tool, None, None)
    markers = [(e.key, e.change) for e in record.events if isinstance(e, Marked)]
    body = Body(lambda body: run.main(body, facts, record.arguments), call_id=view.id, markers=markers)
    past = [e for e in record.events if not isinstance(e, Marked | StepLate | Completed | Failed | Cancelled)]
    asked: set[str] = set()
    try:
        for position, event in enumerate(past):
            for command in body.feed(event, following=position < len(past) - 1):
                if isinstance(command, RunStep):
                    asked.add(command.key)
        return asked, set(body.pending)
    except PerdureError:
        return set(), set()  # a body that does not fit now
    finally:
        body.drop()


async def live(scenario: Scenario, *deaths: Place) -> World:
    world = World(scenario, list(deaths))
    await world.live()
    world.check()
    return world
