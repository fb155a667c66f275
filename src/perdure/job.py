"""`Job`: a durable function that clients do not see; awaited in a body it is a child call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, get_type_hints

from typing_extensions import TypedDict

from perdure.calls import Call, ask_for, asker_here, outcome_of, start_detached
from perdure.core.codec import codec_for, digest, recordable
from perdure.effects import current_effects
from perdure.engine import Engine, Request
from perdure.errors import PerdureError
from perdure.key import key_of

if TYPE_CHECKING:
    from perdure.tool import Options

P = ParamSpec("P")
T = TypeVar("T")


class Registered(Protocol):
    """A job's function, as its server registered it."""

    @property
    def tool(self) -> str:
        """The job's name."""
        ...

    @property
    def function(self) -> str:
        """`module:qualname`."""
        ...

    @property
    def arguments(self) -> Arguments: ...
    @property
    def options(self) -> Options:
        """What it was registered with, and the server's defaults."""
        ...

    def decode(self, outcome: bytes) -> Any: ...
    def engine(self) -> Engine:
        """What the server runs on. While it does not serve: an error that names `mcp.serving(work=False)`."""
        ...


class Job(Generic[P, T]):
    """A durable function that clients do not see."""

    def __init__(self, registered: Registered, *, key: str | None = None, after: timedelta | None = None) -> None:
        self.name = registered.tool
        self._registered = registered
        self._key = key
        self._after = after
        template = registered.options.key
        self._key_of = None if template is None else key_of(template, registered.arguments.names)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it as a child call, which is cancelled when the body gives up waiting; raises `CallFailed`."""
        effects = current_effects()
        if effects is None:
            raise PerdureError(
                f"Job {self.name!r} can be awaited only in a body, where waiting is durable. "
                f"Elsewhere `call = await {self.name}.start(...)` starts it, and `await call.result()` waits for it."
            )
        request = self.request(self._registered.arguments.bind(*args, **kwargs))
        return await effects.child(ask_for(request), self._registered.decode)

    async def start(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Start it and do not wait: in a body exactly once, and for the body's caller; elsewhere for who asked."""
        request = self.request(self._registered.arguments.bind(*args, **kwargs))
        return self._call(await start_detached(self._registered.engine, request, asker_here()))

    def options(self, *, key: str | None = None, after: timedelta | None = None) -> Job[P, T]:
        """The job with other options for one use: `key` is the key itself, no template; `after` delays the start."""
        return Job(
            self._registered,
            key=self._key if key is None else recordable("A call's key", key),
            after=self._after if after is None else after,
        )

    def request(self, arguments: Mapping[str, Any]) -> Request:
        """The wish for a call with these arguments, by name, which are validated; nobody's yet."""
        registered, options = self._registered, self._registered.options
        values = registered.arguments.validate(arguments)
        key = self._key if self._key is not None or self._key_of is None else self._key_of(values)
        return Request(
            function=registered.function,
            tool=self.name,
            kind="job",
            arguments=registered.arguments.encode(values),
            digest=digest((), values),
            key=key,
            shared=options.shared,
            reuse=options.reuse,
            attach_identical=options.attach_identical,
            deadline=options.deadline,
            retain=options.retain,
            on_disconnect=options.on_disconnect,
            signals=tuple([signal.spec for signal in options.signals]),
            after=self._after,
        )

    def _call(self, call_id: str) -> Call[T]:
        registered = self._registered
        return Call(call_id, lambda timeout: outcome_of(registered.engine, call_id, registered.decode, timeout))

    def __repr__(self) -> str:
        return f"<Job {self.name}>"


class Arguments:
    """The arguments of a function as they are validated and recorded: by name, with the defaults of today."""

    def __init__(self, function: Callable[..., Any], *, without: str | None = None) -> None:
        """`without` is the parameter that is no argument: the `DurableContext`."""
        signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
        parameters = [parameter for parameter in signature.parameters.values() if parameter.name != without]
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"{function.__qualname__} takes {parameter}, but arguments are recorded by name.")
        self._signature = signature.replace(parameters=parameters)
        fields = {parameter.name: hints.get(parameter.name, Any) for parameter in parameters}
        self.names = tuple(fields)
        # No model: its fields may not be called `schema` or `_x`; parameters may.
        shape: Any = TypedDict(function.__name__, fields)  # pyright: ignore[reportArgumentType]  known only now
        self._codec = codec_for(shape, f"The arguments of {function.__qualname__}")

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """By name, as a call of the function would; raises `TypeError`."""
        return self._signature.bind(*args, **kwargs).arguments

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All of them, as the annotations want them; raises `TypeError` or pydantic's `ValidationError`."""
        bound = self._signature.bind(**arguments)
        bound.apply_defaults()
        return self._codec.accept(bound.arguments)

    def encode(self, arguments: Mapping[str, Any]) -> bytes:
        return self._codec.encode(arguments)

    def encode_values(self, arguments: Mapping[str, Any]) -> bytes:
        """Of a body that continues with them; raises as `validate` does."""
        return self.encode(self.validate(arguments))

    def decode(self, raw: bytes) -> dict[str, Any]:
        return self._codec.decode(raw)
