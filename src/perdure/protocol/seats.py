"""Who waits for what: the requests at each call, and those whose client has left and may still be heard of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from perdure.engine import Request
from perdure.protocol.callers import Caller
from perdure.protocol.waiting import Waiting
from perdure.protocol.wire import RequestRef
from perdure.tool import Durable

REMEMBERED = 4096
"""Requests that were left, whose cancellation, or answer over a resumed stream, may still come."""


@dataclass(slots=True, eq=False)
class Seat:
    """A request at its call."""

    request: Request
    call_id: str
    durable: Durable
    caller: Caller
    ref: RequestRef | None
    """How its client can name it; a program's cannot be named."""
    waiting: Waiting
    is_told: bool = False
    """Its client got an answer which is not the call's."""
    is_cancelled: bool = False
    """Its client wanted the call stopped; once is enough, a second time would interrupt the call's clean-up."""


class Seats:
    def __init__(self) -> None:
        self._at: dict[str, list[Seat]] = {}
        self._named: dict[RequestRef, Seat] = {}
        self._left: OrderedDict[RequestRef, Seat] = OrderedDict()

    def __iter__(self) -> Iterator[Seat]:
        return iter([seat for seats in self._at.values() for seat in seats])

    def at(self, call_id: str) -> list[Seat]:
        return self._at.get(call_id, [])

    def named(self, ref: RequestRef) -> Seat | None:
        return self._named.get(ref) or self._left.get(ref)

    def take(self, seat: Seat) -> None:
        self._at.setdefault(seat.call_id, []).append(seat)
        if seat.ref is not None:
            self._named[seat.ref] = seat

    def leave(self, seat: Seat) -> None:
        """It waits no longer."""
        seats = self._at[seat.call_id]
        seats.remove(seat)
        if not seats:
            del self._at[seat.call_id]

    def remember(self, seat: Seat) -> None:
        """Its client has left without an answer."""
        if seat.ref is not None:
            self.forget(seat)
            self._left[seat.ref] = seat
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)

    def forget(self, seat: Seat) -> None:
        """Nothing about it can come any more."""
        for refs in (self._named, self._left):
            # A stateless client's requests are named by connections, and these names come again.
            if seat.ref is not None and refs.get(seat.ref) is seat:
                del refs[seat.ref]
