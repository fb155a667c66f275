"""What a server has registered: what each function is, under which names its calls are kept, and how it runs.

It is the server as steps, bodies and `Calls` see it (`effects.Host`, `calls.Code`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import find_resolved_parameters, returns_input_required
from mcp.server.mcpserver.utilities.context_injection import find_context_parameter
from pydantic import ValidationError

from perdure.calls import Calls
from perdure.core.codec import codec_for, return_annotation
from perdure.engine import (
    MACHINE,
    BodyFunction,
    CallFacts,
    CallView,
    Engine,
    Function,
    Request,
    Schedule,
    WholeStep,
)
from perdure.errors import Refused
from perdure.job import Arguments as JobArguments
from perdure.job import Job
from perdure.key import KeyOf, key_of
from perdure.protocol.current_request import current_context
from perdure.sampler import Sampler
from perdure.signal import Signal
from perdure.tool import (
    CallOptions,
    Durable,
    Kind,
    Options,
    Outcome,
    Parameters,
    Registration,
    Way,
    context_parameter,
    function_name,
    hints_of,
    is_async,
    resolve,
    run_of,
    way_of,
)


class Home(Protocol):
    """The server whose registry it is."""

    adopt_within: timedelta

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def state(self) -> Any: ...
    @property
    def sampler(self) -> Sampler | None: ...
    def unattended(self, call_id: str, kind: Kind) -> Context[Any, Any]:
        """The SDK's context for a whole step whose request is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a function turned out to be."""

    way: Way
    hints: Mapping[str, Any]
    options: Options
    key_of: KeyOf | None
    our_context: str | None
    sdk_context: str | None


@dataclass(frozen=True)
class _RegisteredJob:
    """What `perdure.job` needs to know of a job."""

    tool: str
    function: str
    arguments: JobArguments
    options: Options
    outcome: Outcome
    home: Home

    def decode(self, outcome: bytes) -> Any:
        return self.outcome.value_of(outcome)

    def engine(self) -> Engine:
        return self.home.engine


class Registry:
    def __init__(self, home: Home, defaults: CallOptions) -> None:
        self._home = home
        self._defaults = defaults
        self.functions: list[Function] = []
        """What the engine runs; it is served while it grows."""
        self._registrations: dict[tuple[Kind, str], Registration] = {}
        self._durables: dict[str, Durable] = {}
        self._jobs: dict[str, Job[..., Any]] = {}
        self._decode: dict[str, Callable[[bytes], Any]] = {}
        self._signals: dict[str, Sequence[Signal[Any]]] = {}
        self._function_names: set[str] = set()
        self._stores: set[str] = set()

    @property
    def registrations(self) -> Sequence[Registration]:
        """All that was registered, ordinary or durable, in its order."""
        return tuple(self._registrations.values())

    # --- the server, as steps, bodies and calls see it ---

    @property
    def state(self) -> Any:
        return self._home.state

    @property
    def sampler(self) -> Any:
        return self._home.sampler

    def calls_of(self, caller: str | None) -> Calls:
        return Calls(lambda: self._home.engine, caller=caller, code=self)

    def request(self, tool: str, arguments: Mapping[str, Any]) -> Request:
        if (job := self._jobs.get(tool)) is not None:
            return job.request(arguments)
        found = self._durables.get(tool)
        if found is None:
            known = ", ".join(sorted([*self._durables, *self._jobs])) or "none"
            raise Refused(f"There is no durable {tool!r} here. There are: {known}.")
        values = found.parameters.validate(dict(arguments))
        asked = found.parameters.encode(arguments, values)
        return found.request(asked, caller=None, principal=None, waiting=None, adopt_within=self._home.adopt_within)

    def decode_result(self, view: CallView) -> Any:
        assert view.outcome is not None
        decode = self._decode.get(view.tool)
        return view.result if decode is None else decode(view.outcome)

    def signal(self, tool: str, name: str) -> Signal[Any] | None:
        return next((signal for signal in self._signals.get(tool, ()) if signal.name == name), None)

    # --- what a function is ---

    def plan(
        self, fn: Callable[..., Any], kind: Kind, options: CallOptions, *, read_only: bool, idempotent: bool
    ) -> Plan:
        """Decide it, or refuse what cannot be. Raises TypeError and ValueError that name the function."""
        hints = hints_of(fn)
        ours, sdks = context_parameter(hints), find_context_parameter(fn)
        try:
            if ours is not None and sdks is not None:
                raise TypeError("it takes both contexts; the SDK's is a request's, and a body outlives its request")
            if ours is not None and not is_async(fn):
                raise TypeError("it takes a DurableContext, so it must be async: what a body waits for is durable")
            asks = bool(find_resolved_parameters(fn)) or returns_input_required(fn)
            way = way_of(
                kind=kind,
                is_body=ours is not None,
                read_only=read_only,
                asks_client=asks,
                options=options,
                defaults=self._defaults,
            )
            resolved = resolve(way, read_only, idempotent, options, self._defaults)
            names = [name for name in inspect.signature(fn).parameters if name not in (ours, sdks)]
            rendered = None if resolved.key is None else key_of(resolved.key, names)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{function_name(fn)}: {error}") from None
        return Plan(way, hints, resolved, rendered, ours, sdks)

    def check_free(self, fn: Callable[..., Any], name: str) -> None:
        """Calls are kept and shown under these names, so each means one function."""
        function = function_name(fn)
        if function in self._function_names:
            raise ValueError(
                f"{function} is registered already, and calls are kept under this name. Functions made in a loop or a "
                "factory need names of their own: set fn.__qualname__."
            )
        if name in self._decode:
            raise ValueError(f"{self._home.name} has a durable {name!r} already: use another name")

    # --- keeping it ---

    def note(self, kind: Kind, name: str, plan: Plan, fn: Callable[..., Any]) -> None:
        """Remember a function for who looks at the server."""
        options = None if plan.way == "ordinary" else plan.options
        self._registrations[kind, name] = Registration(kind, name, plan.way, fn, options)

    def keep(
        self, fn: Callable[..., Any], kind: Kind, name: str, plan: Plan, parameters: Parameters, outcome: Outcome
    ) -> Durable:
        run = self._run_of(fn, kind, plan, parameters.decode, parameters.encode_values, outcome)
        durable = Durable(
            kind=kind,
            name=name,
            function=Function(function_name(fn), name, kind, run, self),
            options=plan.options,
            parameters=parameters,
            key_of=plan.key_of,
        )
        self._offer(durable.function)
        self._durables[name] = durable
        self._decode[name] = outcome.value_of
        self._signals[name] = plan.options.signals
        return durable

    def keep_job(self, fn: Callable[..., Any], name: str, plan: Plan, every: timedelta | None) -> Job[..., Any]:
        if plan.sdk_context is not None:
            raise TypeError(f"{function_name(fn)}: a job has no request, so the SDK's Context has nothing for it")
        arguments = JobArguments(fn, without=plan.our_context)
        codec = codec_for(return_annotation(fn), f"The result of job {name!r}")

        async def encode(value: Any) -> bytes:
            return codec.encode(value)

        outcome = Outcome(encode, codec.decode)
        run = self._run_of(fn, "job", plan, arguments.decode, arguments.encode_values, outcome)
        function_id = function_name(fn)
        job = Job[..., Any](_RegisteredJob(name, function_id, arguments, plan.options, outcome, self._home))
        schedule = None if every is None else _schedule_of(job, every, plan.options)
        function = Function(function_id, name, "job", run, self, schedule=schedule)
        self._jobs[name] = job
        self._offer(function)
        self._decode[name] = codec.decode
        self._signals[name] = plan.options.signals
        return job

    def keep_store(self, name: str) -> None:
        if name in self._stores:
            raise ValueError(f"{self._home.name} has a store {name!r} already: use that one, or another name")
        self._stores.add(name)

    def forget_tool(self, name: str) -> None:
        """Its calls go on."""
        self._registrations.pop(("tool", name), None)
        removed = self._durables.pop(name, None)
        if removed is not None:
            self._decode.pop(name, None)
            self._signals.pop(name, None)
            self._function_names.discard(removed.function.name)

    def _offer(self, function: Function) -> None:
        # In place of one that was removed, whose calls it goes on with.
        self.functions[:] = [known for known in self.functions if known.name != function.name]
        self.functions.append(function)
        self._function_names.add(function.name)

    def _run_of(
        self,
        fn: Callable[..., Any],
        kind: Kind,
        plan: Plan,
        decode: Callable[[bytes], dict[str, Any]],
        encode: Callable[[dict[str, Any]], bytes],
        outcome: Outcome,
    ) -> BodyFunction | WholeStep:
        def sdk_context_of(facts: CallFacts) -> Context[Any, Any]:
            # In a first life, that of the request which it runs for.
            return current_context() or self._home.unattended(facts.call_id, kind)

        return run_of(
            fn,
            way=plan.way,
            decode=decode,
            encode=encode,
            outcome=outcome,
            options=plan.options,
            host=self,
            our_context=plan.our_context,
            sdk_context=plan.sdk_context,
            sdk_context_of=sdk_context_of,
        )


def _schedule_of(job: Job[..., Any], every: timedelta, options: Options) -> Schedule:
    """Raises TypeError and ValueError for what cannot run by itself."""
    if every <= timedelta(0):
        raise ValueError("every= must be longer than nothing")
    if options.key is not None:
        raise ValueError(f"{job.name} runs every {every}: each tick has its own key, so key= has no place")
    try:
        request = job.request({})
    except (TypeError, ValidationError) as error:
        raise TypeError(f"{job.name} runs every {every} without anybody who gives it arguments: {error}") from error
    return Schedule(every, replace(request, caller=MACHINE))
