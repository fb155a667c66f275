"""A world in which bodies live, crash and live again; what must hold of every life is asserted as it goes.

It is what an engine does, without disk, time or processes: an event is recorded, fed, and what comes out is
performed. A crash loses the body, and the effect that was just had but not recorded.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from perdure.core.body import Body
from perdure.core.call import child_call_id
from perdure.core.codec import encode_error, encode_step_error
from perdure.core.commands import (
    Abandon,
    AwaitEnd,
    Command,
    Complete,
    DropTimer,
    EndCancelled,
    Fail,
    Finish,
    JoinCall,
    Mark,
    RunStep,
    SetTimer,
    StartChild,
    UseStore,
)
from perdure.core.events import (
    CancelAsked,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    Event,
    Fed,
    Marked,
    Resumed,
    Signalled,
    Started,
    StepRaised,
    StepReturned,
    StoreReturned,
    TimerFired,
)
from perdure.errors import CallFailed, PerdureError
from tests.core.bodies import Get, Main, Put, encode

CALL = "c0ffee"

Ask = RunStep | StartChild | JoinCall | UseStore


class Crash(Exception):
    """The process died here."""


@dataclass
class World:
    """What outlives a crash: the journal, the effects that were had, the calls of children."""

    journal: list[Event] = field(default_factory=list[Event])
    clock: float = 1_000.0
    store: dict[str, int] = field(default_factory=dict[str, int])
    writes: Counter[str] = field(default_factory=Counter[str])
    runs: Counter[str] = field(default_factory=Counter[str])
    given_up: set[str] = field(default_factory=set[str])
    asked: list[list[Any]] = field(default_factory=list[list[Any]])
    """Of each fed event what the body asked upon it."""
    calls: dict[str, tuple[bytes | None, bytes | None]] = field(default_factory=dict[str, Any])
    """The ends of the children, by call id."""

    @property
    def fed(self) -> list[Fed]:
        return [event for event in self.journal if not isinstance(event, Marked)]  # pyright: ignore[reportReturnType]

    @property
    def markers(self) -> list[tuple[str, str]]:
        return [(event.key, event.change) for event in self.journal if isinstance(event, Marked)]

    @property
    def answered(self) -> set[str]:
        return {
            event.key
            for event in self.journal
            if isinstance(event, StepReturned | StepRaised | StoreReturned | ChildRefused)
        }


@dataclass(frozen=True)
class Plan:
    """What happens to a call from outside; `chance` decides what is faster."""

    chance: Random
    signals: tuple[Any, ...] = ()
    cancel: float = 0.0
    """How likely a cancel is at each turn."""
    cancels: int = 1
    cancel_at: int | None = None
    crash_at: int | None = None
    """The length of the journal at which the process dies."""
    python: str = "3.11"


class Life:
    """One life of a call: replay what was recorded, then go on."""

    def __init__(self, world: World, main: Main, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.body = Body(main, call_id=CALL, markers=world.markers)
        self.asks: dict[str, Ask | AwaitEnd] = {}
        self.unheard: dict[str, Ask | AwaitEnd] = {}
        """Given up; what is decided of them may come in all the same."""
        self.timers: dict[str, float] = {}
        self.undecided: deque[Ask] = deque()
        self.ending: dict[str, AwaitEnd] = {}
        """Children whose end will come in, given up or not."""

    def live(self) -> Finish:
        try:
            self._replay()
            while self.body.finish is None:
                self._turn()
            assert not self.body.pending
            assert not self.body.timers
            return self.body.finish
        finally:
            self.body.drop()

    # --- replay ---

    def _replay(self) -> None:
        world, past = self.world, self.world.fed
        for position, event in enumerate(past):
            commands = self.body.feed(event, following=position < len(past) - 1)
            assert not any(isinstance(command, Mark) for command in commands)
            assert spell_all(commands) == world.asked[position]
            self._note(event, commands)
        for ask in self.asks.values():
            if isinstance(ask, UseStore | StartChild | JoinCall):
                self.undecided.append(ask)
        if past and self.body.finish is None and self.plan.chance.random() < 0.3:
            self._happen(Resumed(world.clock))

    # --- one turn ---

    def _turn(self) -> None:
        world, chance = self.world, self.plan.chance
        if not world.journal:
            self._happen(Started(world.clock, 7, self.plan.python))
        elif self.undecided:
            self._decide(self.undecided.popleft())
        elif self._is_time_to_cancel():
            self._happen(CancelAsked("enough", world.clock))
        else:
            steps = [ask for ask in self.asks.values() if isinstance(ask, RunStep)]
            doable: list[Callable[[], None]] = [partial(self._run, step) for step in steps]
            doable += [partial(self._end, end) for end in self.ending.values()]
            if self.timers:
                doable.append(self._fire)
            if self._signals_left():
                doable.append(self._signal)
            assert doable, "the body waits for what never comes"
            chance.choice(doable)()

    def _is_time_to_cancel(self) -> bool:
        if sum(isinstance(event, CancelAsked) for event in self.world.journal) >= self.plan.cancels:
            return False
        if self.plan.cancel_at is not None:
            return len(self.world.journal) >= self.plan.cancel_at
        return self.plan.chance.random() < self.plan.cancel

    def _run(self, step: RunStep) -> None:
        world = self.world
        # The promises that replay is for.
        assert step.key not in world.answered
        assert step.key not in world.given_up
        world.runs[step.key] += 1
        began = world.clock
        world.clock += self.plan.chance.random()
        head = (step.key, step.name, step.digest)
        try:
            value = step.work.encode(step.work.run())
        except Exception as error:
            raised = encode_step_error(error, step=step.name, attempts=1)
            self._happen(StepRaised(*head, raised, 1, began, world.clock))
        else:
            self._happen(StepReturned(*head, value, 1, began, world.clock))

    def _fire(self) -> None:
        key = min(self.timers, key=lambda key: (self.timers[key], key))
        self.world.clock = max(self.world.clock, self.timers[key])
        self._happen(TimerFired(key, self.world.clock))

    def _signals_left(self) -> tuple[Any, ...]:
        return self.plan.signals[sum(isinstance(event, Signalled) for event in self.world.journal) :]

    def _signal(self) -> None:
        self._happen(Signalled("decision", encode(self._signals_left()[0]), self.world.clock))

    # --- what one transaction decides: effect and event together ---

    def _decide(self, ask: Ask) -> None:
        if ask.key not in self.asks and self.plan.chance.random() < 0.5:
            return  # given up before it was on its way
        self._die_here()
        world, head = self.world, (ask.key, ask.name, ask.digest)
        match ask:
            case UseStore():
                self._happen(StoreReturned(*head, self._use(ask), world.clock))
            case StartChild(name="refused"):
                error = encode_error(PerdureError("Call refused is refused"))
                self._happen(ChildRefused(*head, error, world.clock))
            case StartChild():
                call_id = child_call_id(CALL, ask.key)
                world.writes[call_id] += 1
                world.calls[call_id] = _outcome_of(ask)
                self._happen(ChildStarted(*head, call_id, world.clock))
            case JoinCall():
                self._happen(ChildStarted(*head, ask.call_id, world.clock))
            case RunStep():
                raise AssertionError("a step is no transaction")

    def _use(self, ask: UseStore) -> bytes:
        match ask.operation:
            case Put(key, value):
                self.world.store[key] = value
                self.world.writes[ask.key] += 1
                return b"null"
            case Get(key):
                return encode(self.world.store.get(key))
            case other:
                raise AssertionError(other)

    def _end(self, end: AwaitEnd) -> None:
        value, error = self.world.calls[end.call_id]
        self._happen(ChildEnded(end.key, end.call_id, value, error, self.world.clock))

    # --- events in, commands out ---

    def _die_here(self) -> None:
        if self.plan.crash_at is not None and len(self.world.journal) >= self.plan.crash_at:
            raise Crash

    def _happen(self, event: Fed) -> None:
        self._die_here()
        world = self.world
        world.journal.append(event)
        commands = self.body.feed(event)
        world.journal += [Marked(c.key, c.change, world.clock) for c in commands if isinstance(c, Mark)]
        world.asked.append(spell_all(commands))
        self._note(event, commands)
        self.undecided += [c for c in commands if isinstance(c, UseStore | StartChild | JoinCall)]

    def _note(self, event: Fed, commands: list[Command]) -> None:
        """Keep an account of our own of what is asked, and compare."""
        self._note_event(event)
        for command in commands:
            match command:
                case RunStep() | StartChild() | JoinCall() | UseStore():
                    assert command.key not in self.asks
                    self.asks[command.key] = command
                case Abandon():
                    given_up = self.unheard[command.key] = self.asks.pop(command.key)
                    self.world.given_up.add(command.key)
                    if isinstance(given_up, AwaitEnd) and given_up.own:
                        cancelled = encode_error(CallFailed("double", "Cancelled", "given up"))
                        self.world.calls[given_up.call_id] = (None, cancelled)
                case SetTimer():
                    self.timers[command.key] = command.when
                case DropTimer():
                    del self.timers[command.key]
                case Complete() | Fail() | EndCancelled():
                    assert command is commands[-1]
                    assert command == self.body.finish
                case _:
                    pass
        assert dict(self.body.timers) == self.timers
        if self.body.finish is None:
            assert {key: _spell(ask) for key, ask in self.body.pending.items()} == {
                key: _spell(ask) for key, ask in self.asks.items()
            }
            assert self.body.is_waiting == all(isinstance(ask, AwaitEnd) for ask in self.asks.values())

    def _note_event(self, event: Fed) -> None:
        match event:
            case ChildStarted():
                heard = event.key in self.asks
                ask = self.asks.pop(event.key) if heard else self.unheard[event.key]
                if isinstance(ask, StartChild) and ask.detached:
                    return
                waits = AwaitEnd(event.key, event.call_id, own=isinstance(ask, StartChild))
                self.ending[event.key] = waits
                if heard:
                    self.asks[event.key] = waits
            case ChildEnded():
                self.asks.pop(event.key, None)
                del self.ending[event.key]
            case StepReturned() | StepRaised() | StoreReturned() | ChildRefused():
                self.asks.pop(event.key, None)
            case TimerFired():
                del self.timers[event.key]
            case _:
                pass


def run(world: World, main: Main, plan: Plan) -> Finish:
    return Life(world, main, plan).live()


def check(world: World, main: Main, finish: Finish) -> None:
    """The finished journal replays to the same end, with the same asks on the way; every write was made once."""
    assert run(World(world.journal, asked=world.asked, calls=world.calls), main, Plan(Random(0))) == finish
    assert all(times == 1 for times in world.writes.values())


def _outcome_of(ask: StartChild) -> tuple[bytes | None, bytes | None]:
    if ask.name == "fails":
        return None, encode_error(CallFailed("double", "ValueError", "it failed"))
    return encode(2 * int(ask.arguments)), None


def spell_all(commands: list[Command]) -> list[Any]:
    return [_spell(command) for command in commands if not isinstance(command, Mark) and hasattr(command, "key")]


def _spell(command: Any) -> tuple[Any, ...]:
    """A command without its functions, which are others in each life."""
    return (
        type(command).__name__,
        *(str(getattr(command, name, None)) for name in ("key", "name", "digest", "when", "call_id", "own")),
    )
