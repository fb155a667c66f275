"""A durable tool, prompt or resource: its function, its options, its arguments and outcome as they are recorded.

It knows what to run and how that is written down. How a request becomes a call is the gateway's, and the SDK's
own machinery (schemas, conversions) is handed in by the server.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypedDict

from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure.context import DurableContext
from perdure.core.codec import digest, name_of, plain_function
from perdure.core.commands import Work
from perdure.core.retry import ONCE, Retry, TryAgain
from perdure.effects import Effects, Host
from perdure.engine import KEPT, BodyFunction, CallFacts, Function, Principal, Request, WholeStep
from perdure.errors import FOR_CLIENTS, NotRecordable
from perdure.key import KeyOf
from perdure.signal import Signal
from perdure.step import USELESS

log = logging.getLogger("perdure")

Kind = Literal["tool", "prompt", "resource", "job"]
Way = Literal["body", "whole step", "ordinary"]
TaskSupport = Literal["optional", "required", "forbidden"]

HANDOFF = timedelta(seconds=45)
"""How long a request waits that has another way to its answer: less than any known client's time-out."""


# --- options --------------------------------------------------------------------------------------


class CallOptions(TypedDict, total=False):
    """What a durable function can be told about its calls; a server's `defaults=` has the same."""

    durable: bool
    key: str | Callable[..., str]
    shared: bool
    reuse: timedelta
    deadline: timedelta
    retry: Retry
    rerun: bool
    task: TaskSupport
    handoff_after: timedelta | None
    on_disconnect: Literal["continue", "cancel"]
    identical: Literal["separate", "attach"]
    retain: timedelta
    signals: Sequence[Signal[Any]]


def way_of(
    *, kind: Kind, is_body: bool, read_only: bool, asks_client: bool, options: CallOptions, defaults: CallOptions
) -> Way:
    """How calls of a function run. Raises TypeError where its options contradict what it is."""
    durable = options.get("durable")
    wants_record = durable is True or "key" in options or options.get("task", "forbidden") != "forbidden"
    if is_body:
        if durable is False:
            raise TypeError("durable=False, and a DurableContext: only a durable function can have one")
        if asks_client:
            raise TypeError("a function with a DurableContext cannot ask through the SDK as well: use ctx.elicit")
        return "body"
    if wants_record and durable is False:
        raise TypeError("durable=False contradicts key= and task=, which need a record")
    if wants_record and asks_client:
        raise TypeError("a function that asks its client through the SDK is ordinary: give it a DurableContext instead")
    if wants_record:
        return "whole step"
    if durable is False or asks_client:
        return _ordinary(options)
    if (preference := defaults.get("durable")) is not None:
        return "whole step" if preference else _ordinary(options)
    # What is only read needs no record: asking again is free.
    return _ordinary(options) if read_only or kind in ("prompt", "resource") else "whole step"


def _ordinary(options: CallOptions) -> Way:
    if idle := sorted(set(options) - {"durable", "task", "handoff_after"}):
        raise TypeError(f"{', '.join(idle)} have no effect on an ordinary function: make it durable=True")
    return "ordinary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one durable function, with the server's defaults and everything that follows from them."""

    key: str | Callable[..., str] | None
    shared: bool
    reuse: timedelta | None
    deadline: timedelta | None
    retry: Retry
    rerun: bool
    task: TaskSupport
    handoff_after: timedelta | None
    on_disconnect: Literal["continue", "cancel"]
    attach_identical: bool
    retain: timedelta
    signals: tuple[Signal[Any], ...]


def resolve(way: Way, read_only: bool, idempotent: bool, options: CallOptions, defaults: CallOptions) -> Options:
    """Raises TypeError and ValueError for options that cannot be meant."""
    if way == "body" and "retry" in options:
        raise TypeError("retry= is for whole steps; in a body each step has its own: @step(retry=…)")
    key = options.get("key", defaults.get("key"))
    for needs_key in ("shared", "reuse"):
        if options.get(needs_key) and key is None:
            raise ValueError(f"{needs_key}= is about calls with a key: give one with key=")
    both: CallOptions = {**defaults, **options}
    # A read is worth nothing later; anything else is done once, however late it is asked for again.
    reuse = both.get("reuse", timedelta(0) if read_only else None)
    retain = both.get("retain", KEPT)
    deadline = both.get("deadline")
    if deadline is not None and deadline <= timedelta(0):
        raise ValueError("deadline= must be longer than nothing")
    if retain <= timedelta(0):
        raise ValueError("retain= must be longer than nothing")
    handoff_after = both.get("handoff_after", HANDOFF)
    if handoff_after is not None and handoff_after < timedelta(0):
        raise ValueError("handoff_after= cannot be negative; None never hands a request off")
    if reuse is not None and reuse < timedelta(0):
        raise ValueError("reuse= cannot be negative")
    if reuse is not None and reuse > retain:
        if "retain" in options:
            raise ValueError("retain= must be at least reuse=: what is gone cannot be used again")
        retain = reuse
    return Options(
        key=key,
        shared=both.get("shared", False) and key is not None,
        reuse=reuse,
        deadline=deadline,
        retry=both.get("retry", ONCE),
        rerun=read_only or idempotent or both.get("rerun", False),
        task=both.get("task", "optional"),
        handoff_after=handoff_after,
        on_disconnect=both.get("on_disconnect", "continue"),
        attach_identical=both.get("identical") == "attach",
        retain=retain,
        signals=tuple(both.get("signals", ())),
    )


# --- functions ------------------------------------------------------------------------------------


def function_name(fn: Callable[..., Any]) -> str:
    """`module:qualname`, which calls are kept under; a program run as a script counts as its module."""
    return name_of(plain_function(fn))


def is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(plain_function(fn))


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """Its annotations, resolved; as they are written where they cannot be."""
    function = plain_function(fn)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        written: dict[str, Any] = dict(getattr(function, "__annotations__", {}))
        if any("DurableContext" in str(annotation) for annotation in written.values()):
            raise TypeError(
                f"the annotations of {function_name(fn)} cannot be resolved ({error}): "
                "import what they name at the module's top, not under TYPE_CHECKING"
            ) from error
        return written


def context_parameter(hints: Mapping[str, Any]) -> str | None:
    """The parameter that takes our context."""
    return next((name for name, hint in hints.items() if name != "return" and _is_context(hint)), None)


def _is_context(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is DurableContext or origin is DurableContext:
        return True
    return origin is not None and any(_is_context(each) for each in typing.get_args(hint))


Serve = Callable[[dict[str, Any]], Awaitable[Any]]


def shim_of(fn: Callable[..., Any], hints: Mapping[str, Any], less: str | None, serve: Serve) -> Callable[..., Any]:
    """A stand-in for `fn` to register with the SDK: its signature without the context, its work done by `serve`."""
    own = inspect.signature(fn)
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in own.parameters.items()
        if name != less
    ]
    signature = own.replace(parameters=parameters, return_annotation=hints.get("return", own.return_annotation))

    async def shim(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return await serve(given.arguments)

    function = plain_function(fn)
    # Not functools.wraps: the SDK would look through to the parameter that it must not see.
    shim.__name__, shim.__qualname__, shim.__doc__ = function.__name__, function.__qualname__, function.__doc__
    shim.__module__ = function.__module__
    setattr(shim, "__signature__", signature)  # noqa: B010  what inspect.signature looks for; no attribute to pyright
    shim.__annotations__ = {name: hint for name, hint in hints.items() if name != less}
    return shim


# --- arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arguments:
    """What one call was asked with: `values` as the function gets them, and how they are recorded."""

    values: dict[str, Any]
    payload: bytes
    digest: str


class Parameters:
    """Records arguments as the client sent them and validates again on the way back.

    So a validator is applied once in every life, whatever it does. What the client left out is recorded where a
    later life could not find it again: defaults that are made, and plain ones, which a deploy may change.
    """

    def __init__(self, model: type[BaseModel], validate: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.validate = validate
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        self._names = frozenset(fields)
        self._made = [name for name, field in fields.items() if field.default_factory is not None]
        plain = {name: field for name, field in fields.items() if _has_plain_default(field)}
        as_sent = {name: _validated(field) for name, field in plain.items()}
        # The function sees `5` where its signature says so; validated as `5.0` it would see something else.
        self._plain = {name: field.default for name, field in plain.items() if _same(field.default, as_sent[name])}
        # Left out or sent, it is the same call.
        self._as_sent = {name: value for name, value in as_sent.items() if name not in self._plain}
        # A secret is masked in whatever is made of it: what the client sent tells two of them apart.
        self._secret = [name for name, field in fields.items() if _is_secret(field)]
        if lost := sorted(set(self._made) & set(self._secret)):
            why = "it is a secret that only this life could know, and a journal keeps none. Make it in a step."
            raise NotRecordable(f"The made default of {', '.join(lost)} ({model.__name__})", why)

    def encode(self, raw: Mapping[str, Any], values: dict[str, Any]) -> Arguments:
        """`values` is what `validate` made of `raw`."""
        sent = {**self._plain, **raw}
        for name in self._made:
            if name not in raw:
                sent[name] = values[name]
        try:
            payload = to_json(sent, by_alias=True)
        except PydanticSerializationError as error:
            raise NotRecordable("The arguments", str(error)) from error
        return Arguments(values, payload, digest((), self._compared(raw, values)))

    def _compared(self, raw: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        if not self._secret and not self._as_sent:
            return values
        compared = {**values, **{name: raw.get(name) for name in self._secret}}
        return compared | {name: value for name, value in self._as_sent.items() if name not in raw}

    def encode_values(self, values: dict[str, Any]) -> bytes:
        """Of a body that continues with them. Raises `TypeError` for one that the function does not have."""
        if unknown := sorted(values.keys() - self._names):
            raise TypeError(f"There is no argument {', '.join(unknown)}: there are {', '.join(sorted(self._names))}.")
        raw: dict[str, Any] = from_json(to_json(values, by_alias=True))
        return self.encode(raw, self.validate(raw)).payload

    def decode(self, payload: bytes) -> dict[str, Any]:
        return self.validate(from_json(payload))


def _has_plain_default(field: FieldInfo) -> bool:
    return field.default_factory is None and isinstance(field.default, str | int | float | bool | None)


def _validated(field: FieldInfo) -> Any:
    """The default, as if a client had sent it; as it is, if none could."""
    try:
        return TypeAdapter[Any](_type_of(field)).validate_python(field.default)
    except ValidationError:
        return field.default


def _same(default: Any, validated: Any) -> bool:
    return type(default) is type(validated) and default == validated


def _type_of(field: FieldInfo) -> Any:
    return field.annotation


def _is_secret(field: FieldInfo) -> bool:
    try:
        return b'"writeOnly":true' in to_json(TypeAdapter[Any](_type_of(field)).json_schema())
    except Exception:  # no schema, no secret: the SDK has refused such a type or does not show it
        return False


# --- the record -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable:
    """One durable function as it was registered. `name` is what its calls are shown under; a resource's is its URI."""

    kind: Kind
    name: str
    function: Function
    options: Options
    parameters: Parameters
    key_of: KeyOf | None

    def request(
        self,
        arguments: Arguments,
        *,
        caller: str | None,
        principal: Principal | None,
        waiting: str | None,
        adopt_within: timedelta,
        idempotency_key: str | None = None,
        context: Context | None = None,
    ) -> Request:
        options = self.options
        return Request(
            function=self.function.name,
            tool=self.name,
            kind=self.kind,
            arguments=arguments.payload,
            digest=arguments.digest,
            caller=caller,
            principal=None if options.shared else principal,
            waiting=waiting,
            key=None if self.key_of is None else self.key_of(arguments.values),
            shared=options.shared,
            reuse=options.reuse,
            idempotency_key=idempotency_key,
            attach_identical=options.attach_identical,
            adopt_within=adopt_within,
            deadline=options.deadline,
            retain=options.retain,
            on_disconnect=options.on_disconnect,
            signals=tuple([signal.spec for signal in options.signals]),
            context=context,
        )


@dataclass(frozen=True, slots=True)
class Registration:
    """One function as its server took it, for who looks at the server: `options` is None where nothing is recorded."""

    kind: Kind
    name: str
    way: Way
    fn: Callable[..., Any]
    options: Options | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How what a function returned is recorded. `encode` may await, but never waits for anything."""

    encode: Callable[[Any], Awaitable[bytes]]
    value_of: Callable[[bytes], Any]
    """What `Calls.result` gives for it."""


def run_of(
    fn: Callable[..., Any],
    *,
    way: Way,
    decode: Callable[[bytes], dict[str, Any]],
    encode: Callable[[dict[str, Any]], bytes],
    outcome: Outcome,
    options: Options,
    host: Host,
    our_context: str | None,
    sdk_context: str | None = None,
    sdk_context_of: Callable[[CallFacts], Any] | None = None,
) -> BodyFunction | WholeStep:
    """How calls of `fn` run. `decode` makes its arguments of what was recorded, in every life anew; `encode` records
    others, by name and validated."""
    if our_context is not None:
        signals = {signal.name: signal.decode for signal in options.signals}
        return BodyFunction(_body(fn, decode, encode, outcome, host, our_context, signals), signals)
    assert way == "whole step"
    given: Callable[[CallFacts], dict[str, Any]] = lambda facts: {}  # noqa: E731
    if sdk_context is not None and sdk_context_of is not None:
        given = lambda facts: {sdk_context: sdk_context_of(facts)}  # noqa: E731
    return WholeStep(_whole_step(fn, decode, outcome, options.retry, given), rerun=options.rerun)


def _body(
    fn: Callable[..., Coroutine[Any, Any, Any]],
    decode: Callable[[bytes], dict[str, Any]],
    encode: Callable[[dict[str, Any]], bytes],
    outcome: Outcome,
    host: Host,
    our_context: str,
    signals: Collection[str],
) -> Callable[[Effects, CallFacts, bytes], Coroutine[Any, Any, bytes]]:
    logger = logging.getLogger(fn.__module__)

    def main(effects: Effects, facts: CallFacts, arguments: bytes) -> Coroutine[Any, Any, bytes]:
        # Decoded before the body begins: code that no longer takes them must not look like a failure of the body.
        return run(effects, facts, decode(arguments))

    async def run(effects: Effects, facts: CallFacts, values: dict[str, Any]) -> bytes:
        context = DurableContext[Any](
            effects,
            host=host,
            principal=facts.principal,
            caller=facts.caller,
            calls=host.calls_of(facts.caller),
            logger=logger,
            signals=signals,
            with_arguments=lambda changed: encode({**values, **changed}),
        )
        try:
            return await outcome.encode(await fn(**values, **{our_context: context}))
        except Exception as error:
            log_crash(facts, error)
            raise

    return main


def _whole_step(
    fn: Callable[..., Any],
    decode: Callable[[bytes], dict[str, Any]],
    outcome: Outcome,
    retry: Retry,
    given: Callable[[CallFacts], dict[str, Any]],
) -> Callable[[CallFacts, bytes], Work]:
    threaded = not is_async(fn)

    def work(facts: CallFacts, arguments: bytes) -> Work:
        values = decode(arguments)

        def run() -> Any:
            # `given` is asked here, where the first life runs in its request's context and finds the SDK's there.
            try:
                return fn(**values, **given(facts))
            except Exception as error:
                log_crash(facts, error)
                raise

        async def run_async() -> Any:
            try:
                return await fn(**values, **given(facts))
            except Exception as error:
                log_crash(facts, error)
                raise

        def encode(value: Any) -> bytes:
            try:
                return without_waiting(outcome.encode(value))
            except Exception as error:
                log_crash(facts, error)
                raise

        return Work(
            run=run if threaded else run_async,
            encode=encode,
            retry=retry,
            useless=USELESS,
            threaded=threaded,
        )

    return work


def without_waiting(made: Awaitable[bytes]) -> bytes:
    """The result of an `encode`, outside of any loop."""
    coroutine = made.__await__()
    try:
        next(coroutine)
    except StopIteration as end:
        return end.value
    raise NotRecordable("The value", "it must be read first: return what it contains")


ANTICIPATED = (ToolError, ResourceError, MCPError, TryAgain, *FOR_CLIENTS)
"""What is raised on purpose; anything else is a crash, whose traceback belongs in the log, and nowhere else."""


def log_crash(facts: CallFacts, error: Exception) -> None:
    if not isinstance(error, ANTICIPATED):
        log.error("%s of call %s raised an unexpected exception", facts.tool, facts.call_id, exc_info=error)
