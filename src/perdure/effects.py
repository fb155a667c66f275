"""What user code rests on: the operations that whoever runs a body gives to it, and the frame of a running step.

`DurableContext`, `Step`, `Job`, `Store` and `Calls` ask here, so a dictionary can stand in for an engine in a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

from perdure.core.call import idempotency_key
from perdure.core.commands import Tell, Work
from perdure.core.record import record
from perdure.engine import Principal, QuestionAsk, StoreOperation

T = TypeVar("T")


class Effects(Protocol):
    """What a running body can ask for. Every awaitable is durable: answered from the journal in replay."""

    @property
    def call_id(self) -> str: ...
    @property
    def random(self) -> Random: ...
    @property
    def replaying(self) -> bool:
        """An earlier life was fed this event: what is said now was said before."""
        ...

    def now(self) -> float:
        """POSIX seconds of the last event."""
        ...

    def step(self, name: str, digest: str, work: Work, decode: Callable[[bytes], T]) -> Awaitable[T]: ...

    def child(self, ask: ChildAsk, decode: Callable[[bytes], T]) -> Awaitable[T]:
        """Start a job and wait for its end; giving up waiting asks it to cancel."""
        ...

    def detach(self, ask: ChildAsk) -> Awaitable[str]:
        """Start a job that nobody waits for; its call id."""
        ...

    def join(self, call_id: str, decode: Callable[[bytes], T]) -> Awaitable[T]:
        """Wait for the end of a call that is not this body's own."""
        ...

    def store(self, store: str, operation: StoreOperation) -> Awaitable[bytes]:
        """The reply, as `StoreReply` reads it."""
        ...

    def ask(self, name: str, digest: str, question: QuestionAsk) -> Awaitable[bytes]:
        """The answer, as JSON in the shape that MCP gives it. Raises `InputUnavailable`."""
        ...

    def receive(self, name: str, decode: Callable[[bytes], T]) -> Awaitable[T]: ...
    def patched(self, change: str) -> bool: ...
    def tell(self, what: Tell) -> None: ...


@dataclass(frozen=True, slots=True)
class ChildAsk:
    name: str
    digest: str
    function: str
    arguments: bytes
    call_key: str | None = None
    after: float | None = None
    options: Any = None


def current_effects() -> Effects | None:
    """The body that is running in this thread, if one is."""
    # The public get_running_loop raises where there is none, which costs more than the answer.
    return getattr(asyncio._get_running_loop(), "effects", None)


class Host(Protocol):
    """The server that a step belongs to: what `current_step` shows beyond the step itself."""

    @property
    def state(self) -> Any:
        """What the server's lifespan yielded."""
        ...

    @property
    def sampler(self) -> Any:
        """The server's own model, a `Sampler`; None where it has none."""
        ...

    def calls_of(self, caller: str | None) -> Any: ...


@record
class Frame:
    """The step or whole-step tool that runs here; `call_id` is None in an ordinary tool.

    A body sets one for itself too, so that the stores it uses know whose it is; `current_effects` tells the two apart.
    """

    host: Host
    caller: str | None
    principal: Principal | None
    call_id: str | None = None
    name: str = ""
    attempt: int = 1
    place: str | None = None
    """The step's in its call."""
    in_body: bool = False
    """A step of a body; a whole-step tool otherwise."""
    report: Callable[[float, float | None, str | None], None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    """The server's loop that it runs for, also where it runs on a thread."""

    @property
    def idempotency_key(self) -> str:
        """Empty where there is no step."""
        if self.call_id is None or self.place is None:
            return ""
        return idempotency_key(self.call_id, self.place)


running_frame: ContextVar[Frame | None] = ContextVar("perdure_frame", default=None)


def own_loop() -> asyncio.AbstractEventLoop | None:
    """This thread's own loop: in a body the one that feeds it."""
    loop = asyncio._get_running_loop()
    return getattr(loop, "outer", loop)
