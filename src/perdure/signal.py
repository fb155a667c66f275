"""Signals: typed messages that are sent to a call from outside."""

from __future__ import annotations

from functools import cached_property
from typing import Generic, TypeVar

from pydantic import ValidationError

from perdure.core.codec import codec_for
from perdure.engine import SignalSpec
from perdure.errors import Diverged, Refused

T = TypeVar("T")


class Signal(Generic[T]):
    """A message of one type that tools and jobs declare with `signals=[…]` and their bodies `receive`.

    It may come before it is received. With `once` the first one decides, and a second is `AlreadyAnswered`.
    """

    def __init__(self, name: str, type: type[T], *, once: bool = False) -> None:
        if not name:
            raise ValueError("A signal is sent by its name; it cannot be empty.")
        self.name = name
        self.type = type
        self.once = once
        self._codec = codec_for(type, f"Signal {name!r}")

    def encode(self, value: T) -> bytes:
        """The value as it is sent; raises `Refused` if the signal does not take it."""
        try:
            return self._codec.encode(self._codec.accept(value))
        except ValidationError as exc:
            raise Refused(f"Signal {self.name!r} does not take this value. {exc}") from exc

    def check(self, raw: bytes) -> None:
        """Raises `Refused` if the signal does not take this JSON."""
        try:
            self._codec.decode(raw)
        except Diverged as exc:
            raise Refused(f"Signal {self.name!r} does not take this value. {exc.__cause__}") from exc

    def decode(self, raw: bytes) -> T:
        return self._codec.decode(raw)

    @cached_property
    def spec(self) -> SignalSpec:
        """What those without the code need to know to send it."""
        return SignalSpec(self.name, self.once, self._codec.json_schema())

    def __repr__(self) -> str:
        return f"<signal {self.name!r}>"
