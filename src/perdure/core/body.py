"""A call's body: events in, commands out.

One event is fed in, the body runs until nothing in it is ready, and what it asked for comes out. Live and in
replay this is the same; a journal that was fed once ends the same way each time it is fed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from random import Random
from typing import Any, ClassVar, Protocol, TypeVar, cast

from perdure.core.codec import decode_error, encode_error
from perdure.core.codec import digest as digest_of
from perdure.core.commands import (
    Abandon,
    Ask,
    AskQuestion,
    AwaitAnswer,
    AwaitEnd,
    Command,
    Complete,
    ContinueAs,
    Decided,
    DropTimer,
    EndCancelled,
    Fail,
    Finish,
    JoinCall,
    Mark,
    RunStep,
    SetTimer,
    StartChild,
    Tell,
    UseStore,
    Work,
)
from perdure.core.divergence import spell_ask, spell_event
from perdure.core.events import (
    Answered,
    Asked,
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
from perdure.core.loop import MOST_CALLBACKS, BodyLoop
from perdure.core.signals import SignalBuffer
from perdure.core.tasks import BodyTask
from perdure.errors import Continued, Diverged

T = TypeVar("T")

Outcome = StepReturned | StepRaised | ChildStarted | ChildRefused | ChildEnded | StoreReturned | Asked | Answered
"""An event that answers an ask."""


class ChildAsk(Protocol):
    """What a body says of a job that it starts."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def function(self) -> str: ...
    @property
    def arguments(self) -> bytes: ...
    @property
    def call_key(self) -> str | None: ...
    @property
    def after(self) -> float | None: ...
    @property
    def options(self) -> Any: ...


class Body:
    """`main` returns the payload of the call's outcome; what it runs may ask for the effects below.

    After a `feed` that raised, and when it is no longer needed, a body is to be dropped.
    """

    def __init__(
        self,
        main: Callable[[Body], Coroutine[Any, Any, bytes]],
        *,
        call_id: str,
        markers: Collection[tuple[str, str]] = (),
        python: str = "",
    ) -> None:
        self.call_id = call_id
        self.finish: Finish | None = None
        """How the call ended, once its body and all of the body's tasks have."""
        self.pending: dict[str, Ask] = {}
        """What was asked and is neither answered nor abandoned; in replay to be performed at the journal's end."""
        self._main_function = main
        self._main: BodyTask | None = None
        self._python = python
        self._markers = dict.fromkeys(markers)
        self._loop = BodyLoop(call_id, self)
        self.timers: Mapping[str, float] = self._loop.timers
        """Armed timers: key -> when."""
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._given_up: dict[str, Ask] = {}
        """Abandoned asks whose outcome may be in the journal all the same."""
        self._signals: dict[str, SignalBuffer] = {}
        self._following = False
        self._again = False
        self._unreadable: Diverged | None = None
        self._cancels = 0
        self._leftovers: list[BodyTask] = []
        self._seed = 0
        self._random: Random | None = None

    @property
    def ends_given_up(self) -> tuple[str, ...]:
        """Where this body waited for the end of a call, its own or not, and does no longer."""
        return tuple(ask.key for ask in self._given_up.values() if type(ask) is AwaitEnd)

    @property
    def questions_given_up(self) -> tuple[str, ...]:
        """Where this body asked something whose answer it does not wait for any more."""
        return tuple(ask.key for ask in self._given_up.values() if type(ask) is AwaitAnswer)

    def signals_unheard(self) -> list[tuple[str, bytes]]:
        """By name, in the order in which they came; what was not received is there for who goes on."""
        return [(name, value) for name, buffer in self._signals.items() for value in buffer.values]

    @property
    def is_waiting(self) -> bool:
        """Nothing but timers, signals, answers and the ends of other calls is pending."""
        for ask in self.pending.values():  # noqa: SIM110  # asked after every feed; all() costs five times as much
            if type(ask) not in WAITS:
                return False
        return True

    # --- events in, commands out ---

    def feed(self, event: Fed, *, following: bool = False, again: bool = False) -> list[Command]:
        """Let the event happen to the body; what the body asked for upon it, `finish` last.

        `following`: recorded events follow this one; `again`: another life was fed it before, and said what there
        was to say. Raises Diverged; Spinning for a body that never waits;
        KeyboardInterrupt, after which the body is gone.
        """
        loop = self._loop
        self._following = following
        self._again = loop.silent = following or again
        loop.callbacks_left = MOST_CALLBACKS
        if event.at > loop.now:
            loop.now = event.at
        if self.finish is not None and getattr(event, "key", None) in self._given_up:
            self._HAPPEN[type(event)](self, event)  # it was on its way when the body ended
            return []
        if self.finish is not None or (self._main is None) is not (type(event) is Started):
            raise self._diverged(event)
        try:
            self._HAPPEN[type(event)](self, event)
            loop.run()
            if self._main is not None and self._main.done():
                self._wind_up()
            if self._cancels > 1 and self.finish is None:
                self._end_by_force()
        except KeyboardInterrupt:
            self.drop()
            raise
        if self._unreadable is not None:
            raise self._unreadable
        commands, loop.commands = loop.commands, []
        if loop.undone:
            loop.undone = False
            commands, undone = without_undone(commands)
            for key in undone:
                self._given_up.pop(key, None)
        return commands

    def drop(self) -> None:
        """Make the body leave memory: each of its coroutines gets `Parked`, newest first, on this thread and now."""
        if self.finish is None:  # else all of them have ended
            self._loop.drop()

    # --- the events ---

    def _start(self, event: Started) -> None:
        self._seed = event.seed
        self._loop.order_from(event.seed)
        self._main = self._loop.start(self._main_function(self))

    def _answer(self, event: Outcome) -> None:
        key = event.key
        # An ask that was given up goes its way all the same, unheard: the outcome of one that is decided in a
        # transaction may have been on its way.
        asks = self.pending if key in self.pending else self._given_up
        ask = asks.get(key)
        if ask is None or not _is_answer(event, ask):
            raise self._diverged(event)
        if type(event) is ChildStarted and not (type(ask) is StartChild and ask.detached):
            asks[key] = AwaitEnd(key, event.call_id, own=type(ask) is StartChild)
            return
        if type(event) is Asked and event.error is None:
            asks[key] = AwaitAnswer(key, event.question)
            return
        del asks[key]
        if asks is self.pending:
            self._answers.pop(key).set_result(event)

    def _fire(self, event: TimerFired) -> None:
        if event.key not in self.timers:
            raise self._diverged(event)
        self._loop.fire(event.key)

    def _signal(self, event: Signalled) -> None:
        self._signal_named(event.name).put(event.value)

    def _pass_time(self, event: Resumed) -> None:
        """Every event moves the time; this one does nothing else."""

    def _cancel(self, event: CancelAsked) -> None:
        assert self._main is not None
        self._cancels += 1
        self._main.cancel()

    _HAPPEN: ClassVar[dict[type[Fed], Callable[[Body, Any], None]]] = {
        Started: _start,
        Resumed: _pass_time,
        TimerFired: _fire,
        Signalled: _signal,
        CancelAsked: _cancel,
        StepReturned: _answer,
        StepRaised: _answer,
        StoreReturned: _answer,
        ChildStarted: _answer,
        ChildRefused: _answer,
        ChildEnded: _answer,
        Asked: _answer,
        Answered: _answer,
    }

    # --- the end ---

    def _wind_up(self) -> None:
        """The body has returned: cancel the tasks that it left, close its generators, and wait until all have ended."""
        loop = self._loop
        if self._main is not None and loop.had_only(self._main):
            self._end()
            return
        while all(task.done() for task in self._leftovers):
            self._leftovers = [*loop.live_tasks()] or loop.close_generators()
            if not self._leftovers:
                self._end()
                return
            for task in self._leftovers:
                if not task.closes and not task.cancelling():
                    task.cancel()
            loop.run()

    def _end(self) -> None:
        assert self._main is not None
        self._loop.drop_timers()
        self.finish = self._finish_of(self._main)
        self._loop.commands.append(self.finish)
        self._loop.let_go()

    def _end_by_force(self) -> None:
        """A second cancel came, and the clean-up still waits for something."""
        for key in list(self.pending):
            self._give_up(key)
        self._loop.drop_timers()
        main = self._main
        assert main is not None
        self.finish = self._finish_of(main) if main.done() else EndCancelled()
        self._loop.commands.append(self.finish)
        self._loop.drop()

    def _finish_of(self, main: BodyTask) -> Finish:
        if main.cancelled():
            return EndCancelled() if self._cancels else Fail(encode_error(asyncio.CancelledError()))
        error = main.exception()
        if error is not None and (continued := _continued(error)) is not None:
            return ContinueAs(continued.arguments)
        return Complete(main.result()) if error is None else Fail(encode_error(error))

    def _diverged(self, event: Fed) -> Diverged:
        return Diverged(spell_event(event), self._asked_instead(event), self._python)

    def _asked_instead(self, event: Fed) -> str:
        if self.finish is not None:
            return f"nothing: the body has ended with {type(self.finish).__name__}"
        if self._main is None:
            return "nothing: the body has not started"
        key = getattr(event, "key", None)
        if key in self.pending:
            return spell_ask(self.pending[key])
        if key in self._given_up:
            return f"{spell_ask(self._given_up[key])}, given up since"
        waits = [spell_ask(ask) for ask in self.pending.values()]
        waits += [f"timer at {timer}" for timer in self.timers]
        shown = ", ".join(waits[:3]) + (f" and {len(waits) - 3} more" if len(waits) > 3 else "")
        return f"nothing at {key}; the body waits for {shown or 'nothing'}"

    # --- what a body asks for (effects.Effects) ---

    @property
    def random(self) -> Random:
        if self._random is None:
            self._random = Random(self._seed)
        return self._random

    @property
    def replaying(self) -> bool:
        return self._again

    def now(self) -> float:
        return self._loop.now

    async def step(self, name: str, digest: str, work: Work, decode: Callable[[bytes], T]) -> T:
        ask = RunStep(self._next_key(), name, digest, work)
        try:  # as `_ask` does: this is the hot path, and a coroutine less is felt
            event = await self._answer_to(ask)
        except BaseException:
            self._give_up(ask.key)
            raise
        if type(event) is StepReturned:
            return self._read(decode, event.value)
        raise decode_error(event.error)

    async def child(self, ask: ChildAsk, decode: Callable[[bytes], T]) -> T:
        return self._read_end(await self._ask(self._start_child(ask, detached=False)), decode)

    async def detach(self, ask: ChildAsk) -> str:
        event = await self._ask(self._start_child(ask, detached=True))
        if type(event) is ChildStarted:
            return event.call_id
        raise decode_error(event.error)

    async def join(self, call_id: str, decode: Callable[[bytes], T]) -> T:
        ask = JoinCall(self._next_key(), "join", digest_of((call_id,), {}), call_id)
        return self._read_end(await self._ask(ask), decode)

    async def store(self, store: str, operation: Any) -> bytes:
        name = f"{store}.{type(operation).__name__}"
        event = await self._ask(UseStore(self._next_key(), name, digest_of((operation,), {}), store, operation))
        return event.value

    async def ask(self, name: str, digest: str, question: Any) -> bytes:
        event = await self._ask(AskQuestion(self._next_key(), name, digest, question))
        if type(event) is Answered:
            return event.value
        assert event.error is not None
        raise decode_error(event.error)

    async def receive(self, name: str, decode: Callable[[bytes], T]) -> T:
        self._check_place()
        return self._read(decode, await self._signal_named(name).take())

    def _read_end(self, event: ChildEnded | ChildRefused, decode: Callable[[bytes], T]) -> T:
        if type(event) is ChildEnded and event.error is None:
            assert event.value is not None
            return self._read(decode, event.value)
        assert event.error is not None
        raise decode_error(event.error)

    def _read(self, decode: Callable[[bytes], T], recorded: bytes) -> T:
        """What is recorded and no longer fits the code makes the call stuck; the body must not make an end of it."""
        try:
            return decode(recorded)
        except Diverged as error:
            self._unreadable = error
            raise

    def _signal_named(self, name: str) -> SignalBuffer:
        if name not in self._signals:
            self._signals[name] = SignalBuffer(self._loop)
        return self._signals[name]

    def patched(self, change: str) -> bool:
        self._check_place()
        marker = (self._loop.branch().patch(change), change)
        if marker in self._markers:
            return True
        if self._following:
            return False
        self._markers[marker] = None
        self._loop.commands.append(Mark(*marker))
        return True

    def tell(self, what: Tell) -> None:
        self._check_place()
        if not self._again:
            self._loop.commands.append(what)

    def _start_child(self, ask: ChildAsk, *, detached: bool) -> StartChild:
        return StartChild(
            key=self._next_key(),
            name=ask.name,
            digest=ask.digest,
            function=ask.function,
            arguments=ask.arguments,
            call_key=ask.call_key,
            after=ask.after,
            detached=detached,
            options=ask.options,
        )

    def _next_key(self) -> str:
        loop = self._loop
        if loop.is_dying or asyncio._get_running_loop() is not loop:
            self._check_place()
        branch = loop.branch()
        branch.asks += 1
        return f"{branch.path}/{branch.asks}"

    def _check_place(self) -> None:
        """Raises Parked in a body that was dropped."""
        loop = self._loop
        if loop.is_dying:
            loop.refuses()
        elif asyncio._get_running_loop() is not loop:
            raise RuntimeError(
                f"The context of call {self.call_id} was used outside of its body. "
                "Steps and threads have current_step(); after its end a call can ask for nothing."
            )

    async def _ask(self, ask: Decided) -> Any:
        try:
            return await self._answer_to(ask)
        except BaseException:
            self._give_up(ask.key)
            raise

    def _answer_to(self, ask: RunStep | Decided) -> asyncio.Future[Any]:
        loop = self._loop
        # Never in the body's hands, so that its order among others does not matter, and asyncio's own is the fastest.
        answer: asyncio.Future[Any] = asyncio.Future(loop=loop)
        if not loop.is_dying:
            self.pending[ask.key] = ask
            self._answers[ask.key] = answer
            loop.commands.append(ask)
        return answer

    def _give_up(self, key: str) -> None:
        if self._loop.is_dying or key not in self.pending:
            return  # it leaves memory; or it was answered in this feed, too late to be heard
        ask = self.pending.pop(key)
        del self._answers[key]
        # The outcome of a step that was given up is fed to nobody; all others are decided in a transaction, and that
        # of this one may be on its way.
        if type(ask) is not RunStep:
            self._given_up[key] = ask
        self._loop.undone = True
        self._loop.commands.append(Abandon(key))


def without_undone(commands: list[Command]) -> tuple[list[Command], set[str]]:
    """What was asked and given up in one feed was never asked; the keys of those."""
    asked = {command.key for command in commands if isinstance(command, _ASKS)}
    undone = {command.key for command in commands if isinstance(command, Abandon | DropTimer)} & asked
    if not undone:
        return commands, undone
    pairs = (*_ASKS, Abandon, DropTimer)
    return [command for command in commands if not (isinstance(command, pairs) and command.key in undone)], undone


def _is_answer(event: Outcome, ask: Ask) -> bool:
    if type(ask) not in _ANSWERS[type(event)]:
        return False
    if isinstance(event, Answered):
        return isinstance(ask, AwaitAnswer) and event.question == ask.question
    if isinstance(event, ChildEnded) or isinstance(ask, AwaitEnd | AwaitAnswer):
        return True
    return event.name == ask.name and event.digest == ask.digest


def _continued(error: BaseException) -> Continued | None:
    """Also out of a task group, if nothing but that happened in it."""
    if isinstance(error, Continued):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    group = cast("BaseExceptionGroup[BaseException]", error)
    found = [_continued(each) for each in group.exceptions]
    return found[0] if None not in found else None


_ASKS = (RunStep, StartChild, JoinCall, UseStore, AskQuestion, SetTimer)

WAITS = (AwaitEnd, AwaitAnswer)
"""What a body waits for without anything of the call running."""

_ANSWERS: dict[type[Outcome], tuple[type[Ask], ...]] = {
    StepReturned: (RunStep,),
    StepRaised: (RunStep,),
    StoreReturned: (UseStore,),
    ChildStarted: (StartChild, JoinCall),
    ChildRefused: (StartChild, JoinCall),
    ChildEnded: (AwaitEnd,),
    Asked: (AskQuestion,),
    Answered: (AwaitAnswer,),
}
