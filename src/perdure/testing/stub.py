"""`Stub`: what runs in place of a step, and what was asked of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Generic, ParamSpec, TypeVar

from perdure.effects import running_frame

P = ParamSpec("P")
T = TypeVar("T")


class Stub(Generic[P, T]):
    """One entry in each list per attempt, in all lives; `idempotency_keys` has none for a step run outside a call."""

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    idempotency_keys: list[str]

    def __init__(self, fn: Callable[P, Awaitable[T]] | Callable[P, T]) -> None:
        self.calls = []
        self.idempotency_keys = []
        self._fn: Callable[P, Any] = fn
        self._happened: dict[str, T] = {}

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = _idempotency_key()
        self.calls.append((args, kwargs))
        if key:
            self.idempotency_keys.append(key)
        value = self._fn(*args, **kwargs)
        if isawaitable(value):
            value = await value
        self._happened[key] = value
        return value

    async def find(self, *_args: P.args, **_kwargs: P.kwargs) -> T | None:
        """As `reconcile`: what an attempt under this idempotency key has returned, whether or not it was recorded."""
        return self._happened.get(_idempotency_key())


def _idempotency_key() -> str:
    frame = running_frame.get()
    return "" if frame is None else frame.idempotency_key
