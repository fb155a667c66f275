"""A journal as its tests use it: a clock that stands still, a process, requests that differ where it counts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from perdure.core.events import Cancelled, Completed, End, Event, Failed, StepReturned
from perdure.engine import Accepted, CallView, Delivery, Request
from perdure.engines.embedded.journal import (
    Append,
    Claim,
    Claimed,
    Deliver,
    Delivered,
    Held,
    Journal,
    LetGo,
    Overtaken,
    ReadRecord,
    Record,
    Register,
    StartCall,
    Started,
    View,
    Write,
    commit,
)

FUNCTION = "weather:get_forecast"
MORNING = 1_800_000_000.0


class StandingClock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> float:
        return self.now


def asked(**differences: Any) -> Request:
    """What `me` asks for, unless told otherwise, without waiting for it."""
    usual: dict[str, Any] = {
        "function": FUNCTION,
        "tool": "get_forecast",
        "arguments": b'{"latitude":52.5}',
        "digest": "digest of Berlin",
        "caller": "me",
    }
    return Request(**(usual | differences))


def step(value: bytes = b"1", key: str = "0/1") -> StepReturned:
    return StepReturned(key, "nws", "digest", value, attempts=1, began=MORNING, at=MORNING)


@dataclass
class Storage:
    """An open journal and a process that is known to it."""

    journal: Journal
    clock: StandingClock
    process: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)
    prefix: str = "call"

    async def arrive(self, name: str = "process", pid: int = 1) -> int:
        """Another process."""
        return await commit(self.journal, Register(name, pid, 0, self.clock.now))

    async def start(self, request: Request | None = None, *, own: bool = True, process: int | None = None) -> Started:
        number = next(self.numbers)
        start = StartCall(
            request=request or asked(),
            call_id=f"{self.prefix}-{number}",
            process=process or self.process,
            own=own,
            at=self.clock.now,
            seed=number,
            python="3.11",
        )
        return await commit(self.journal, start)

    async def accepted(self, request: Request) -> Accepted:
        return (await self.start(request)).accepted

    async def held(self, request: Request | None = None) -> Held:
        held = (await self.start(request)).held
        assert held is not None
        return held

    async def claim(self, *functions: str, process: int | None = None, limit: int = 100) -> tuple[Claimed, ...]:
        names = frozenset(functions or (FUNCTION,))
        return await commit(self.journal, Claim(process or self.process, names, self.clock.now, limit))

    async def claim_one(self, *functions: str, process: int | None = None) -> Claimed:
        (claimed,) = await self.claim(*functions, process=process)
        return claimed

    async def append(self, held: Held, *events: Event, **rest: Any) -> tuple[Delivered, ...]:
        told = await commit(self.journal, self.unit(held, *events, **rest))
        assert not isinstance(told, Overtaken)
        return told

    def unit(self, held: Held, *events: Event, **rest: Any) -> Append:
        usual: dict[str, Any] = {"status": "running", "at": self.clock.now}
        return Append(n=held.n, epoch=held.epoch, events=events, **(usual | rest))

    async def park(self, held: Held, wake_at: float | None = None, **rest: Any) -> None:
        await self.append(held, status="waiting", park=True, wake_at=wake_at, **rest)

    async def complete(self, held: Held, value: bytes = b'"fine"', **rest: Any) -> tuple[Delivered, ...]:
        return await self.end(held, "completed", Completed(value, self.clock.now), **rest)

    async def fail(self, held: Held, error: bytes, **rest: Any) -> tuple[Delivered, ...]:
        return await self.end(held, "failed", Failed(error, self.clock.now), **rest)

    async def cancel(self, held: Held, reason: str = "") -> tuple[Delivered, ...]:
        return await self.end(held, "cancelled", Cancelled(reason, self.clock.now))

    async def end(self, held: Held, status: str, end: End, **rest: Any) -> tuple[Delivered, ...]:
        return await self.append(held, status=status, end=end, **rest)

    async def let_go(self, request: str, *, handed: bool) -> None:
        await commit(self.journal, LetGo(request, handed))

    async def deliver(self, call_id: str, delivery: Delivery) -> Delivered:
        return await commit(self.journal, Deliver(call_id, delivery, self.clock.now))

    async def view(self, call_id: str) -> CallView:
        return await self.journal.read(View(call_id))

    async def record(self, call_id: str) -> Record:
        return await self.journal.read(ReadRecord(call_id))

    async def together(self, *writes: Write[Any]) -> list[Any]:
        """Results, or the errors, of writes that were given at once."""
        return await asyncio.gather(*(commit(self.journal, write) for write in writes), return_exceptions=True)
