"""`Job`: a durable function that clients do not see; awaited in a body it is a child call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from perdure.calls import Call, ask_for, asker_here, outcome_of, start_detached
from perdure.effects import current_effects
from perdure.engine import Engine, Request
from perdure.errors import PerdureError

P = ParamSpec("P")
T = TypeVar("T")


class Registered(Protocol):
    """A job's function, as its server registered it."""

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> inspect.Signature:
        """Of the function, without its `DurableContext`."""
        ...

    def request(self, arguments: Mapping[str, Any]) -> Request:
        """The wish for a call with these arguments, validated, encoded and with the job's options; nobody's yet."""
        ...

    def decode(self, outcome: bytes) -> Any: ...
    def engine(self) -> Engine:
        """What the server runs on. While it does not serve: an error that names `mcp.serving(work=False)`."""
        ...


class Job(Generic[P, T]):
    """A durable function that clients do not see."""

    def __init__(self, registered: Registered, *, key: str | None = None, after: timedelta | None = None) -> None:
        self.name = registered.name
        self._registered = registered
        self._key = key
        self._after = after

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it as a child call, which is cancelled when the body gives up waiting; raises `CallFailed`."""
        effects = current_effects()
        if effects is None:
            raise PerdureError(
                f"Job {self.name!r} can be awaited only in a body, where waiting is durable. "
                f"Elsewhere `call = await {self.name}.start(...)` starts it, and `await call.result()` waits for it."
            )
        return await effects.child(ask_for(self._request(*args, **kwargs)), self._registered.decode)

    async def start(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Start it and do not wait: in a body exactly once, and for the body's caller; elsewhere for who asked."""
        request = self._request(*args, **kwargs)
        return self._call(await start_detached(self._registered.engine, request, asker_here()))

    def options(self, *, key: str | None = None, after: timedelta | None = None) -> Job[P, T]:
        """The job with other options for one use: `key` is the key itself, no template; `after` delays the start."""
        return Job(
            self._registered,
            key=self._key if key is None else key,
            after=self._after if after is None else after,
        )

    def _request(self, *args: P.args, **kwargs: P.kwargs) -> Request:
        request = self._registered.request(self._registered.signature.bind(*args, **kwargs).arguments)
        if self._key is None and self._after is None:
            return request
        return replace(request, key=request.key if self._key is None else self._key, after=self._after)

    def _call(self, call_id: str) -> Call[T]:
        registered = self._registered
        return Call(call_id, lambda timeout: outcome_of(registered.engine, call_id, registered.decode, timeout))

    def __repr__(self) -> str:
        return f"<Job {self.name}>"
