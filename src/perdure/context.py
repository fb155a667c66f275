"""What running code sees of its call: `DurableContext` in a body, `current_step()` in a step or a tool without one.

Both only pass on what they are asked: to the `Effects` of the body, to the `Frame` of the step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from logging import Logger, LoggerAdapter
from random import Random
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Protocol, cast, overload
from uuid import UUID

from pydantic_core import to_json
from typing_extensions import TypeVar

from perdure.core.codec import recordable
from perdure.core.commands import Level, NotifyChange, ReportProgress, SendLog, SetStatus
from perdure.effects import Effects, Frame, Host, current_effects, running_frame
from perdure.engine import TIME_TO_LIVE, Principal, QuestionAsk
from perdure.errors import Continued, InputUnavailable, NotRecordable, PerdureError
from perdure.step import Step, step

if TYPE_CHECKING:
    from mcp.server.elicitation import ElicitationResult, UrlElicitationResult
    from mcp_types import ModelPreferences, SamplingMessage
    from pydantic import BaseModel

    from perdure.calls import Calls
    from perdure.question import Sampled, Sampling
    from perdure.signal import Signal

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound="BaseModel")
App = TypeVar("App", default=Any)


_OMITTED: Any = object()


class DurableContext(Generic[App]):
    """What a body has instead of I/O. `App` is what the server's lifespan yields, as `state`.

    It works only in the body it was made for: a step, which may do I/O, has `current_step()`.
    """

    call_id: str
    principal: Principal | None
    """Who asked; None when nobody did in particular, or many did (`shared=True`)."""
    calls: Calls
    """The caller's own calls."""
    log: LoggerAdapter[Logger]
    """Silent in replay; its records carry the call's id as `call_id`."""

    def __init__(
        self,
        effects: Effects,
        *,
        host: Host,
        principal: Principal | None,
        caller: str | None,
        calls: Calls,
        logger: Logger,
        signals: Collection[str] | None = None,
        with_arguments: Callable[[dict[str, Any]], bytes] | None = None,
    ) -> None:
        """To be made in the body. `signals` are the names that the call takes, where they are known; `with_arguments`
        makes the recorded arguments of a call like this one in which the given ones are others."""
        self._effects = effects
        self._host = host
        self._signals = signals
        self._with_arguments = with_arguments
        self.call_id = effects.call_id
        self.principal = principal
        self.calls = calls
        self.log = _CallLog(logger, effects)
        # Stores, and calls that the body starts, find here whose they are.
        running_frame.set(Frame(host, caller, principal, self.call_id))

    @property
    def state(self) -> App:
        """What the server's lifespan yielded: for steps to use; a body that does I/O with it is stopped."""
        return self._host.state

    # --- time and chance ---

    @property
    def random(self) -> Random:
        """Seeded by the call: the same numbers in every replay."""
        return self._here.random

    def now(self) -> datetime:
        """The time of the last event, in UTC: the same in every replay."""
        return datetime.fromtimestamp(self._here.now(), UTC)

    def uuid4(self) -> UUID:
        """The same in every replay."""
        return UUID(int=self._here.random.getrandbits(128), version=4)

    async def sleep(self, delta: timedelta) -> None:
        """A durable timer: time without a running process counts."""
        self._here  # noqa: B018 - refuses outside the body
        await asyncio.sleep(delta.total_seconds())

    async def sleep_until(self, when: datetime) -> None:
        """A durable timer; a time that has passed is over at once."""
        if when.tzinfo is None:
            raise ValueError("sleep_until wants a time with a time zone: the next life may be in another one.")
        await self.sleep(timedelta(seconds=when.timestamp() - self._here.now()))

    # --- effects ---

    @overload
    async def step(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def step(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run any callable as a step for once, under its own name and with the default options."""
        self._here  # noqa: B018 - refuses outside the body
        once = cast("Step[..., Any]", fn) if isinstance(fn, Step) else step(fn)
        return await once(*args, **kwargs)

    async def receive(self, signal: Signal[T], *, timeout: timedelta | None = None) -> T:
        """The next signal of this name, which may have come already; raises `TimeoutError`."""
        if self._signals is not None and signal.name not in self._signals:
            raise PerdureError(
                f"Call {self.call_id} does not take the signal {signal.name!r}, so it could never come. "
                "Declare it: signals=[…] of the tool or job."
            )
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            return await self._here.receive(signal.name, signal.decode)

    # --- questions ---

    async def elicit(
        self,
        message: str,
        schema: type[M],
        *,
        name: str = "question",
        timeout: timedelta | None = None,
        default: M = _OMITTED,
    ) -> ElicitationResult[M]:
        """Ask a person. The same line of code for every client, over restarts and for days.

        An answer that `schema` does not take is refused, and asked for again. `default` is taken, as if it had been
        accepted, when the time is up; and at once where the client cannot be asked and there is no `timeout`. Without
        one: `TimeoutError`, after seven days if `timeout` does not say otherwise, and `InputUnavailable`.
        """
        from perdure.question import AcceptedElicitation, Form

        form = Form(name, message, schema, "refuse" if timeout is None else "wait")
        try:
            return await self._answer(form, timeout)
        except (InputUnavailable, TimeoutError):
            if default is _OMITTED:
                raise
            return AcceptedElicitation[M](data=default)

    async def elicit_url(
        self, message: str, url: str, elicitation_id: str = "", *, timeout: timedelta | None = None
    ) -> UrlElicitationResult:
        """Ask a person to open a page; accepted means that it is being opened, what happens there is told otherwise.

        Raises as `elicit` does.
        """
        from perdure.question import Visit

        visit = Visit(message, url, elicitation_id or str(self.uuid4()), "refuse" if timeout is None else "wait")
        return await self._answer(visit, timeout)

    async def sample(
        self,
        messages: str | Sequence[SamplingMessage],
        *,
        max_tokens: int = 1024,
        system_prompt: str | None = None,
        temperature: float | None = None,
        model_preferences: ModelPreferences | None = None,
        timeout: timedelta | None = None,
    ) -> Sampled:
        """Ask the client's model; where it cannot be asked, the server's own (`sampler=`), as a recorded step.

        `timeout` is for both together. Raises `TimeoutError` after it, and as `elicit` does where there is neither.
        """
        from perdure.question import Sampling, as_messages

        has_own = self._host.sampler is not None
        sampling = Sampling(
            messages=as_messages(messages),
            max_tokens=max_tokens,
            system_prompt=system_prompt,
            temperature=temperature,
            model_preferences=model_preferences,
            if_unable="refuse" if has_own or timeout is None else "wait",
            if_nobody="refuse" if has_own else "wait",
        )
        async with _within(timeout):
            try:
                return await self._answered(sampling)
            except InputUnavailable:
                if not has_own:
                    raise
                return await self._sample_here(sampling)

    async def _answer(self, asked: _Asks[T], timeout: timedelta | None) -> T:
        async with _within(timeout):
            return await self._answered(asked)

    async def _answered(self, asked: _Asks[T]) -> T:
        from perdure.question import MOST_REFUSED, Unfit

        refused: str | None = None
        for _ in range(MOST_REFUSED):
            ask = asked.ask(refused)
            _json(f"The question {asked.name!r}", [ask.question.name, ask.question.params])
            answer = await self._here.ask(asked.name, asked.digest, ask)
            try:
                return asked.read(answer)
            except Unfit as unfit:
                refused = str(unfit)
        raise InputUnavailable(f"{MOST_REFUSED} answers to {asked.name!r} did not fit; the last one: {refused}")

    async def _sample_here(self, sampling: Sampling) -> Sampled:
        from perdure.question import sampled, sampling_step

        return sampled(await sampling_step(self._host.sampler, sampling)(sampling.messages))

    def patched(self, change: str) -> bool:
        """True in calls that come here for the first time with this code; false in those that had passed before."""
        return self._here.patched(recordable("The name of a change", change))

    async def continue_as(self, **arguments: Any) -> NoReturn:
        """Begin anew with a new journal: for what goes on for ever, whose journal would grow without end.

        The call keeps its id, its key, who waits for it and the signals that it did not receive yet; the arguments that
        are given replace the old ones. Steps that run are given up, and children cancelled. Clean-up (`finally`) runs
        first. Raises `TypeError` or pydantic's `ValidationError` for arguments that the function does not take.
        """
        self._here  # noqa: B018 - refuses outside the body
        if self._with_arguments is None:
            raise PerdureError("This body has no arguments to continue with.")
        raise Continued(self._with_arguments(arguments))

    # --- what others see ---

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far it is to who waits; the latest wins."""
        self._here.tell(ReportProgress(progress, total, recordable("The message of a progress", message)))

    async def set_status(self, text: str, data: object = None) -> None:
        """What the call's view shows as `text` and, as JSON, `data`, until the next one."""
        said = recordable("The text of a status", text)
        self._here.tell(SetStatus(said, None if data is None else _json("The data of a status", data)))

    async def debug(self, data: Any, *, logger_name: str | None = None) -> None:
        """Send a log message to the client, once over all lives."""
        self._send_log("debug", data, logger_name)

    async def info(self, data: Any, *, logger_name: str | None = None) -> None:
        """Send a log message to the client, once over all lives."""
        self._send_log("info", data, logger_name)

    async def warning(self, data: Any, *, logger_name: str | None = None) -> None:
        """Send a log message to the client, once over all lives."""
        self._send_log("warning", data, logger_name)

    async def error(self, data: Any, *, logger_name: str | None = None) -> None:
        """Send a log message to the client, once over all lives."""
        self._send_log("error", data, logger_name)

    async def notify_tools_changed(self) -> None:
        """Tell clients that the list of tools is another one now."""
        self._here.tell(NotifyChange("tools"))

    async def notify_prompts_changed(self) -> None:
        """Tell clients that the list of prompts is another one now."""
        self._here.tell(NotifyChange("prompts"))

    async def notify_resources_changed(self) -> None:
        """Tell clients that the list of resources is another one now."""
        self._here.tell(NotifyChange("resources"))

    async def notify_resource_updated(self, uri: str) -> None:
        """Tell clients who subscribed to it that a resource changed."""
        self._here.tell(NotifyChange("resource", recordable("The URI of a resource", uri)))

    def _send_log(self, level: Level, data: Any, logger_name: str | None) -> None:
        self._here.tell(SendLog(level, _json("A log message", data), logger_name))

    @property
    def _here(self) -> Effects:
        # In a step it would change what the body's replay sees: chance drawn, asks made in no order.
        if current_effects() is not self._effects:
            raise PerdureError(
                f"The DurableContext of call {self.call_id} was used outside its body. "
                "In a step use current_step(), and pass plain values to it."
            )
        return self._effects


def _within(timeout: timedelta | None) -> asyncio.Timeout:
    """The time that a question has."""
    return asyncio.timeout((TIME_TO_LIVE if timeout is None else timeout).total_seconds())


class _Asks(Protocol[T_co]):
    """A form, a visit or a sampling."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    def ask(self, refused: str | None) -> QuestionAsk: ...
    def read(self, answer: bytes) -> T_co: ...


def _json(what: str, value: object) -> bytes:
    try:
        return to_json(value)
    except ValueError as error:
        raise NotRecordable(what, str(error)) from error


class _CallLog(LoggerAdapter[Logger]):
    def __init__(self, logger: Logger, effects: Effects) -> None:
        super().__init__(logger, {"call_id": effects.call_id})
        self._effects = effects

    def isEnabledFor(self, level: int) -> bool:
        return not self._effects.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), "call_id": self._effects.call_id}
        return msg, kwargs


class StepInfo:
    """The step, or the tool without a `DurableContext`, that runs here. In an ordinary tool it has no id and no key."""

    __slots__ = ("_frame",)

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    @property
    def call_id(self) -> str:
        if self._frame.call_id is None:
            raise self._ordinary("call id")
        return self._frame.call_id

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt and life of this step, and of no other: for the service that it talks to."""
        if self._frame.call_id is None:
            raise self._ordinary("idempotency key")
        return self._frame.idempotency_key

    @property
    def name(self) -> str:
        return self._frame.name

    @property
    def attempt(self) -> int:
        """Counted from 1. Recorded ones count in later lives; one that a crash interrupts is, if `at_most_once`."""
        return self._frame.attempt

    @property
    def principal(self) -> Principal | None:
        """Who asked; None when nobody did in particular, or many did (`shared=True`)."""
        return self._frame.principal

    @property
    def calls(self) -> Calls:
        """The caller's own calls."""
        return self._frame.host.calls_of(self._frame.caller)

    @property
    def state(self) -> Any:
        """What the server's lifespan yielded."""
        return self._frame.host.state

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far it is to who waits, if anybody does; the latest wins."""
        if self._frame.report is not None:
            self._frame.report(progress, total, recordable("The message of a progress", message))

    def _ordinary(self, what: str) -> PerdureError:
        return PerdureError(
            f"{self._frame.name or 'This tool'} is not recorded, so it has no {what}. "
            "Register it with durable=True, a key= or a ctx: DurableContext."
        )


def current_step() -> StepInfo:
    """The step, or the tool without a `DurableContext`, that runs here. Raises `PerdureError` where none does."""
    if current_effects() is not None:
        raise PerdureError(
            "A body is no step: it has its DurableContext, and current_step() is for the steps it asks for."
        )
    frame = running_frame.get()
    if frame is None:
        raise PerdureError("No step runs here: current_step() works in steps and in tools without a DurableContext.")
    return StepInfo(frame)
