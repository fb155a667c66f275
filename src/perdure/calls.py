"""`Calls`: the verbs and queries that people and programs use on calls; `Call`: a hold on one.

It reaches calls through the engine alone; what only their code can say, it asks `Code`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from functools import cache, partial, wraps
from typing import Any, Concatenate, Final, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from pydantic_core import to_json

from perdure.core.call import Status
from perdure.core.codec import error_message, error_type, is_unicode, recordable
from perdure.effects import ChildAsk, current_effects, running_frame
from perdure.engine import (
    MACHINE,
    NOBODY,
    Answer,
    CallView,
    Cancel,
    Engine,
    Page,
    Principal,
    Query,
    Question,
    Request,
    SignalSpec,
    TimelineEntry,
)
from perdure.engine import Signal as Sent
from perdure.errors import CallEnded, CallFailed, CallNotFound, PerdureError, Refused, Stuck
from perdure.schema import check_json
from perdure.signal import Signal
from perdure.step import step

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Code(Protocol):
    """What a process that has the functions loaded can do for `Calls`."""

    def request(self, tool: str, arguments: Mapping[str, Any]) -> Request:
        """A wish for a call of a tool or job, from its name and raw arguments, which are validated."""
        ...

    def decode_result(self, view: CallView) -> Any:
        """A completed call's outcome as its function's return annotation has it."""
        ...

    def signal(self, tool: str, name: str) -> Signal[Any] | None:
        """The signal that a tool or job declares under this name; None where its code is not loaded."""
        ...


class Reach(Enum):
    EVERYONE = "everyone's calls"


EVERYONE: Final = Reach.EVERYONE

STRANGER = "stranger"
"""A caller that holds nothing."""


class Call(Generic[T_co]):
    """A call that was started; its id is all that is needed to find it again."""

    def __init__(self, id: str, outcome: Callable[[timedelta | None], Coroutine[Any, Any, T_co]]) -> None:
        self.id = id
        self._outcome = outcome

    async def result(self, *, timeout: timedelta | None = None) -> T_co:
        """Wait for its end. Raises `CallFailed`, `Stuck` or `TimeoutError`; giving up does not cancel the call."""
        return await self._outcome(timeout)

    def __repr__(self) -> str:
        return f"Call({self.id!r})"


def _recorded(
    verb: Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]:
    """In a body the verb is a step; everywhere else it just runs."""

    # Made when first used: most processes never do, and its codecs take time to build.
    @cache
    def as_step() -> Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]:
        return step(name=f"calls.{verb.__name__.strip('_')}")(verb)

    @wraps(verb)
    async def run(self: Calls, *args: P.args, **kwargs: P.kwargs) -> T:
        return await (verb if current_effects() is None else as_step())(self, *args, **kwargs)

    return run


class Calls:
    """Find calls, wait for them, and act on them; which ones, depends on where it was had.

    A server's own reaches all calls; `of(principal)`, a context's and a step's only those of one caller: another's
    is not found. In a body each verb is a recorded step.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        *,
        caller: str | Literal[Reach.EVERYONE] | None,
        principal: Principal | None = None,
        code: Code | None = None,
    ) -> None:
        self._engine = engine
        self._caller = caller
        self._principal = principal
        self._code = code

    def of(self, principal: Principal | None) -> Calls:
        """The calls of this principal; None is nobody, whose calls are found by their ids alone."""
        caller = None if principal is None else principal.caller
        return Calls(self._engine, caller=caller, principal=principal, code=self._code)

    # --- starting and waiting ---

    async def start(self, tool: str, arguments: Mapping[str, Any], *, idempotency_key: str | None = None) -> Call[Any]:
        """Start a tool or job without waiting for it. In a body it starts exactly once, for the body's caller."""
        if self._code is None:
            raise PerdureError(f"{tool!r} cannot be started here: only a process that has its code can do that.")
        recordable("An idempotency key", idempotency_key)
        request = replace(self._code.request(tool, arguments), idempotency_key=idempotency_key)
        return self._call(await start_detached(self._engine, request, self._asker))

    async def result(self, call_id: str, *, timeout: timedelta | None = None) -> Any:
        """Wait for the end of a call: the value of its return annotation (JSON where its code is not loaded).

        Raises `CallFailed` when it failed or was cancelled, `Stuck`, and `TimeoutError`.
        """
        view = await self._result(call_id)
        return await outcome_of(self._engine, call_id, partial(self._decoded, view), timeout)

    @_recorded
    async def _result(self, call_id: str) -> CallView:
        """Whose result it is. Without the payloads, which the end brings: they may be large."""
        return replace(await self._reached(call_id), outcome=None, failure=None, status_data=None)

    def _call(self, call_id: str) -> Call[Any]:
        return Call(call_id, lambda timeout: self.result(call_id, timeout=timeout))

    def _decoded(self, view: CallView, outcome: bytes) -> Any:
        view = replace(view, status="completed", outcome=outcome)
        return view.result if self._code is None else self._code.decode_result(view)

    # --- looking ---

    @_recorded
    async def get(self, call_id: str) -> CallView:
        """The call as it is now."""
        return await self._reached(call_id)

    @_recorded
    async def lookup(self, tool: str, key: str) -> CallView | None:
        """The call that holds a key now, or None."""
        if self._caller is None or not is_unicode(tool, key):
            return None
        view = await self._engine().lookup(tool, key, self._named_caller)
        return view if view is not None and self._reaches(view) else None

    @_recorded
    async def timeline(self, call_id: str) -> list[TimelineEntry]:
        """What happened to the call, in order."""
        await self._reached(call_id)
        return await self._engine().timeline(call_id)

    async def watch(self, call_id: str) -> AsyncIterator[CallView]:
        """The call as it is now and then each newer view, the latest wins; ends with the call."""
        _refuse_in_body("watch")
        await self._reached(call_id)
        async for view in self._engine().watch(call_id):
            yield view

    async def find(
        self,
        *,
        status: Status | None = None,
        tool: str | None = None,
        principal: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Calls, newest first; `principal` is a subject. A page's `next`, given as `after`, goes on."""
        _refuse_in_body("find")
        if self._caller is None or not is_unicode(tool, principal):
            return Page([], None)
        query = Query(
            status=status, tool=tool, principal=principal, caller=self._named_caller, after=after, limit=limit
        )
        return await self._engine().find(query)

    # --- acting ---

    @overload
    async def signal(self, call_id: str, signal: Signal[T], value: T) -> None: ...
    @overload
    async def signal(self, call_id: str, signal: str, value: Any) -> None: ...
    async def signal(self, call_id: str, signal: Signal[Any] | str, value: Any) -> None:
        """Send a signal; it is on disk when this returns.

        Raises `CallEnded`, `AlreadyAnswered` for the second of a `once` signal, and `Refused` for one that the call
        does not take. In a body a crash may send it twice.
        """
        if isinstance(signal, str):
            await self._signal(call_id, signal, to_json(value), check=True)
        else:
            await self._signal(call_id, signal.name, signal.encode(value), check=False)

    @_recorded
    async def _signal(self, call_id: str, name: str, value: bytes, *, check: bool) -> None:
        view = await self._reached(call_id)
        spec = next((spec for spec in view.signals if spec.name == name), None)
        if spec is None:
            known = ", ".join(spec.name for spec in view.signals) or "none"
            raise Refused(f"{view.tool!r} takes no signal {name!r}. It takes: {known}.")
        if check:
            self._check(view.tool, spec, value)
        await self._engine().deliver(call_id, Sent(name, value))

    def _check(self, tool: str, spec: SignalSpec, value: bytes) -> None:
        declared = None if self._code is None else self._code.signal(tool, spec.name)
        if declared is None:
            # What a schema cannot say, the call's owner finds out: it drops the signal, as if it had not been sent.
            check_json(f"The signal {spec.name!r}", spec.schema, value)
        else:
            declared.check(value)

    async def answer(self, call_id: str, value: Any, *, question: str | None = None) -> None:
        """Answer what a call asks, from outside of its client; it is on disk when this returns.

        `value` is a form's content, a `DeclinedElicitation` or a `CancelledElicitation`; for a question to a model its
        text. `question` is its name, needed where there are several. Raises `Refused` for a value that does not fit,
        `AlreadyAnswered` and `CallEnded`. In a body a crash may send it twice, which changes nothing.
        """
        asked = await self._question(call_id, question)
        from perdure.question import answer_to

        await self._answer(call_id, asked.name, answer_to(asked, value))

    @_recorded
    async def _question(self, call_id: str, name: str | None) -> Question:
        view = await self._reached(call_id)
        found = [question for question in view.questions if name in (None, question.name)]
        if len(found) == 1:
            return found[0]
        if view.is_over:
            raise CallEnded(view)
        if name is None:
            names = ", ".join(question.name for question in found)
            raise Refused(f"Call {call_id} asks {f'several questions: {names}' if found else 'nothing'}.")
        recordable("The name of a question", name)
        await self._engine().deliver(call_id, Answer(name, b"null"))  # it knows whether that was asked and answered
        raise AssertionError("a question that is not shown took an answer")

    @_recorded
    async def _answer(self, call_id: str, name: str, value: bytes) -> None:
        await self._engine().deliver(call_id, Answer(name, value))

    @_recorded
    async def cancel(self, call_id: str, *, reason: str = "") -> None:
        """Ask a call to cancel; of a shared call one caller lets go, and the last one cancels it.

        What its own caller cancelled is over for that one, whose next request is a new call; whoever asks for what a
        server's own `calls` cancelled is told so.
        """
        await self._reached(call_id)
        recordable("The reason of a cancel", reason)
        # A nobody has no hold of a shared call to let go of, and does not cancel it for those who have.
        caller = STRANGER if self._caller is None else self._named_caller
        await self._engine().deliver(call_id, Cancel(reason, caller))

    async def retry(self, call_id: str) -> Call[Any]:
        """A stuck call is replayed; for one that failed or was cancelled a new, linked call starts."""
        return self._call(await self._retry(call_id))

    @_recorded
    async def _retry(self, call_id: str) -> str:
        await self._reached(call_id)
        return (await self._engine().retry(call_id)).call_id

    @_recorded
    async def release(self, call_id: str) -> None:
        """Take a call from a process that hangs; another one goes on with it."""
        await self._reached(call_id)
        await self._engine().release(call_id)

    # --- whose ---

    @property
    def _asker(self) -> Asker:
        here = asker_here()
        if isinstance(self._caller, Reach) or (self._principal is None and here.caller == self._caller):
            return here
        return Asker(self._caller, self._principal)

    @property
    def _named_caller(self) -> str | None:
        return None if isinstance(self._caller, Reach) else self._caller

    async def _reached(self, call_id: str) -> CallView:
        if not is_unicode(call_id):
            raise CallNotFound(call_id)
        view = await self._engine().get(call_id)
        if not self._reaches(view):
            raise CallNotFound(call_id)
        return view

    def _reaches(self, view: CallView) -> bool:
        return isinstance(self._caller, Reach) or NOBODY in view.callers or self._caller in view.callers


class Asker(NamedTuple):
    """For whom a call is started."""

    caller: str | None
    principal: Principal | None


def asker_here() -> Asker:
    """Who asked for what runs here; a script, which nobody asked, is the machine's own user's."""
    frame = running_frame.get()
    return Asker(MACHINE, None) if frame is None else Asker(frame.caller, frame.principal)


async def start_detached(engine: Callable[[], Engine], request: Request, asker: Asker) -> str:
    """Start a call that nobody waits for; its id. In a body that happens exactly once."""
    effects = current_effects()
    if effects is None:
        # A shared call has many who asked, so no principal.
        request = replace(request, caller=asker.caller, principal=None if request.shared else asker.principal)
        return (await engine().start(request)).call_id
    if asker.caller != asker_here().caller:
        raise PerdureError("A body starts calls for its own caller only. Start one for somebody else in a step.")
    return await effects.detach(ask_for(request))


def ask_for(request: Request) -> ChildAsk:
    """How a body asks for a call: `request` travels as it is, and the caller is added where it is performed."""
    return ChildAsk(
        name=request.tool,
        digest=request.digest,
        function=request.function,
        arguments=request.arguments,
        call_key=request.key,
        after=None if request.after is None else request.after.total_seconds(),
        options=request,
    )


async def outcome_of(
    engine: Callable[[], Engine], call_id: str, decode: Callable[[bytes], T], timeout: timedelta | None
) -> T:
    """Wait for the end of a call; in a body durably."""
    async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
        effects = current_effects()
        if effects is not None:
            return await effects.join(call_id, decode)
        view = await _ended(engine(), call_id)
    if view.outcome is None:
        raise _failure(view)
    return decode(view.outcome)


async def _ended(engine: Engine, call_id: str) -> CallView:
    view = await engine.get(call_id)
    if not view.is_over:
        async for view in engine.watch(call_id):
            if view.status == "stuck":
                raise Stuck(call_id, view.error or "")
    return view


def _failure(view: CallView) -> CallFailed:
    if view.failure is None:
        return CallFailed(view.id, view.status.capitalize(), view.text)
    return CallFailed(view.id, error_type(view.failure), error_message(view.failure))


def _refuse_in_body(verb: str) -> None:
    if current_effects() is not None:
        raise PerdureError(f"calls.{verb} shows what changes while it is read, so a body may not use it: use a step.")
