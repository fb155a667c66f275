"""Steps: the side effects of a body, whose outcomes are recorded.

This module knows what a step is made of and what it asks for. Who runs it, retries it and keeps its outcome is
behind `Effects.step`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from perdure.core.codec import (
    ValueCodec,
    awaits,
    codec_for,
    digest,
    name_of,
    plain_function,
    recordable,
    return_annotation,
)
from perdure.core.commands import Work
from perdure.core.retry import ONCE, Retry, TryAgain
from perdure.effects import current_effects, running_frame
from perdure.errors import NotRecordable, PerdureError, StepOutsideBody

__all__ = ["USELESS", "Retry", "Step", "TryAgain", "has_reconcile", "step", "stubbed"]

P = ParamSpec("P")
P2 = ParamSpec("P2")
S = TypeVar("S")
T = TypeVar("T")

_OMITTED: Any = object()

if TYPE_CHECKING:
    USELESS: tuple[type[Exception], ...]


class Step(Generic[P, T]):
    """A recorded effect. Always awaited, whatever the function under it is.

    In a body its outcome is recorded and never computed again. Inside another step, in an ordinary tool and in plain
    code it is a call of the function, once and unrecorded. In a tool without a `DurableContext` it raises
    `StepOutsideBody`.
    """

    def __init__(self, code: _Code, rules: _Rules, bound: tuple[Any, ...] = ()) -> None:
        self._code = code
        self._rules = rules
        self._bound = bound

    @property
    def name(self) -> str:
        return self._rules.name

    @property
    def fn(self) -> Callable[P, Awaitable[T] | T]:
        """The plain function, which records nothing."""
        fn = self._code.own.fn
        return partial(fn, *self._bound) if self._bound else fn

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        effects = current_effects()
        if effects is not None:
            decode = self._code.codec().decode
            return await effects.step(self.name, self._digest(args, kwargs), self._work(args, kwargs), decode)
        frame = running_frame.get()
        if frame is not None and frame.call_id is not None and not frame.in_body:
            raise StepOutsideBody(self.name)
        return await self._run_plainly(args, kwargs)

    @overload
    def __get__(self, obj: None, owner: type[object]) -> Step[P, T]: ...
    @overload
    def __get__(self: Step[Concatenate[S, P2], T], obj: S, owner: type[S] | None = None) -> Step[P2, T]: ...
    def __get__(self, obj: object, owner: Any = None) -> Step[..., T]:
        return self if obj is None else Step(self._code, self._rules, (obj,))

    def options(
        self, *, name: str = _OMITTED, retry: Retry = _OMITTED, timeout: timedelta | None = _OMITTED
    ) -> Step[P, T]:
        """The same step with other options for one use. `timeout` is per attempt."""
        return Step(self._code, self._rules.changed(name, retry, timeout), self._bound)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"

    def _work(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Work:
        rules, code = self._rules, self._code.running()
        return Work(
            partial(code.fn, *self._bound, *args, **kwargs),
            self._code.codec().encode,
            rules.retry,
            _useless(),
            rules.timeout,
            not code.is_async,
            rules.at_most_once,
            rules.retries_unknown,
            None if code.reconcile is None else partial(code.reconcile, *self._bound, *args, **kwargs),
            copy_context(),
        )

    def _digest(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        # Whatever `self` is, it counts by its type: its attributes are its own affair.
        return digest((*map(name_of, map(type, self._bound)), *args), kwargs)

    async def _run_plainly(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> T:
        code = self._code.running()
        if code.is_async:
            return await code.fn(*self._bound, *args, **kwargs)
        return await asyncio.to_thread(code.fn, *self._bound, *args, **kwargs)


class _StepDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Step[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Step[P, T]: ...


@overload
def step(
    fn: Callable[P, Coroutine[Any, Any, T]],
    /,
    *,
    name: str = ...,
    retry: Retry = ...,
    timeout: timedelta | None = ...,
    at_most_once: bool = False,
    reconcile: Callable[P, Awaitable[T | None]] = ...,
) -> Step[P, T]: ...
@overload
def step(
    fn: Callable[P, T],
    /,
    *,
    name: str = ...,
    retry: Retry = ...,
    timeout: timedelta | None = ...,
    at_most_once: bool = False,
    reconcile: Callable[P, Awaitable[T | None]] = ...,
) -> Step[P, T]: ...
@overload
def step(
    *,
    name: str = ...,
    retry: Retry = ...,
    timeout: timedelta | None = ...,
    reconcile: Callable[P, Awaitable[T | None]],
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Step[P, T]]: ...
@overload
def step(
    *, name: str = ..., retry: Retry = ..., timeout: timedelta | None = ..., at_most_once: bool = False
) -> _StepDecorator: ...
def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str = _OMITTED,
    retry: Retry = _OMITTED,
    timeout: timedelta | None = None,
    at_most_once: bool = False,
    reconcile: Callable[..., Awaitable[Any]] | None = None,
) -> Any:
    """Make a function a recorded effect of the bodies that await it.

    Its outcome goes through the return annotation, which is checked here; without one only JSON-like values, bytes,
    times, decimals, UUIDs and models are taken. An interrupted step runs again, with the same
    `current_step().idempotency_key`. With `at_most_once` the body gets `OutcomeUnknown` instead, and it is tried again
    only if `retry` is given, whose `only_on` names errors that prove that it did not happen. With `reconcile`, an async
    function of the same parameters is asked before each further attempt: a value means that it happened, None that it
    did not. `timeout` is per attempt.
    """

    def make(fn: Callable[..., Any]) -> Step[..., Any]:
        called = _name_of_step(fn) if name is _OMITTED else name
        rules = _Rules(called, at_most_once=at_most_once).changed(_OMITTED, retry, timeout)
        made = Step[..., Any](_Code.of(fn, reconcile, called, at_most_once), rules)
        update_wrapper(cast("Callable[..., Any]", made), fn)
        return made

    return make if fn is None else make(fn)


@contextmanager
def stubbed(
    step: Step[..., Any],
    fn: Callable[..., Any],
    reconcile: Callable[..., Awaitable[Any]] | None = None,
) -> Generator[None]:
    """Run `fn` wherever the step or a copy of it would: what `perdure.testing` puts its stubs in with."""
    code = _code_of(step)
    before, code.stub = code.stub, _Implementation(fn, reconcile)
    try:
        yield
    finally:
        code.stub = before


def has_reconcile(step: Step[..., Any]) -> bool:
    """Whether the step finds out what became of an attempt before it makes another one."""
    return _code_of(step).own.reconcile is not None


def _code_of(step: object) -> _Code:
    if not isinstance(step, Step):
        raise TypeError(f"{step!r} is no step: only what `@step` decorates can be stubbed.")
    return step._code  # pyright: ignore[reportPrivateUsage]  the only way in, so that a step has none


# --- what a step is made of -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a step is run."""

    name: str
    retry: Retry = field(default_factory=Retry)
    timeout: float | None = None
    at_most_once: bool = False
    retries_unknown: bool = False

    def changed(self, name: str, retry: Retry, timeout: timedelta | None) -> _Rules:
        rules = self
        if name is not _OMITTED:
            rules = replace(rules, name=name)
        if retry is not _OMITTED:
            rules = replace(rules, retry=retry, retries_unknown=self.at_most_once)
        if timeout is not _OMITTED:
            rules = replace(rules, timeout=None if timeout is None else timeout.total_seconds())
        if rules.at_most_once and not rules.retries_unknown:
            rules = replace(rules, retry=ONCE)
        return rules

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("A step's name is in every journal that it is in; it cannot be empty.")
        recordable("The name of a step", self.name)
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"The time-out of step {self.name!r} must be more than nothing; it is {self.timeout:g} s.")


@dataclass(frozen=True, slots=True)
class _Implementation:
    """What is called: a step's own function, or a stub."""

    fn: Callable[..., Any]
    reconcile: Callable[..., Awaitable[Any]] | None
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", awaits(self.fn))


@dataclass(slots=True)
class _Code:
    """The function of a step, shared by all its copies: bound to objects, with other options."""

    own: _Implementation
    name: str
    known_codec: ValueCodec[Any] | None = None
    stub: _Implementation | None = None

    @classmethod
    def of(
        cls, fn: Callable[..., Any], reconcile: Callable[..., Awaitable[Any]] | None, name: str, at_most_once: bool
    ) -> _Code:
        _refuse(fn, name)
        if reconcile is not None:
            _check_reconcile(fn, reconcile, name, at_most_once)
        code = cls(_Implementation(fn, reconcile), name)
        with suppress(NameError):  # its module is not complete yet: the name is looked for again at the first use
            code.resolve()
        return code

    def running(self) -> _Implementation:
        return self.own if self.stub is None else self.stub

    def codec(self) -> ValueCodec[Any]:
        try:
            return self.known_codec or self.resolve()
        except NameError as exc:
            what = f"The result of step {self.name!r}"
            raise NotRecordable(what, f"its annotation says {exc.name!r}, and there is no such name.") from exc

    def resolve(self) -> ValueCodec[Any]:
        annotation = return_annotation(self.own.fn)
        if self.own.reconcile is not None and annotation is type(None):
            raise TypeError(
                f"Step {self.name!r} returns nothing, so reconcile could not say that it happened. "
                "Return something that proves it: an id, a receipt."
            )
        self.known_codec = codec_for(annotation, f"The result of step {self.name!r}")
        return self.known_codec


def _name_of_step(fn: Callable[..., Any]) -> str:
    """Its qualified name, from the innermost function on in which it was made."""
    name = plain_function(fn).__qualname__.rpartition("<locals>.")[2]
    if name == "<lambda>":
        raise ValueError("A lambda has no name for the journal: step(fn, name=…).")
    return name


def _refuse(fn: Callable[..., Any], name: str) -> None:
    if isinstance(fn, Step):
        raise TypeError(f"Step {name!r} is a step already: other options are step.options(…).")
    function = plain_function(fn)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"Step {name!r} is a generator. A step has one outcome: return a list.")


def _check_reconcile(
    fn: Callable[..., Any], reconcile: Callable[..., Awaitable[Any]], name: str, at_most_once: bool
) -> None:
    if at_most_once:
        raise TypeError(f"Step {name!r} has reconcile, which finds out what at_most_once gives up on. Choose one.")
    if not awaits(reconcile):
        raise TypeError(f"reconcile of step {name!r} must be async.")
    expected, found = _parameters(fn), _parameters(reconcile)
    if expected != found:
        raise TypeError(
            f"reconcile of step {name!r} is given the same arguments, so it takes the same parameters: "
            f"({', '.join(key for key, _ in expected)}), not ({', '.join(key for key, _ in found)})."
        )


def _parameters(fn: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(parameter.name, parameter.kind) for parameter in inspect.signature(fn).parameters.values()]


@cache
def _useless() -> tuple[type[Exception], ...]:
    """Errors that trying again cannot mend."""
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.shared.exceptions import MCPError

    return ToolError, MCPError, PerdureError, TypeError


def __getattr__(name: str) -> Any:
    # Made when first asked for: importing the SDK takes longer than all of perdure.
    if name == "USELESS":
        return _useless()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
