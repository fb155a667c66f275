"""Who waits for what: the requests at each call, and those whose client has left or is yet to be met."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from perdure.engine import Request
from perdure.protocol.callers import Caller
from perdure.protocol.conversation import Nobody
from perdure.protocol.waiting import Waiting
from perdure.protocol.wire import CancelNote, RequestRef
from perdure.tool import Durable

REMEMBERED = 4096
"""Requests that were left, whose cancellation, or answer over a resumed stream, may still come; and as many
cancellations of requests that have not come so far."""


@dataclass(slots=True, eq=False)
class Seat:
    """A request at its call."""

    request: Request
    durable: Durable
    caller: Caller
    ref: RequestRef | None
    """How its client can name it; a program's cannot be named."""
    waiting: Waiting
    call_id: str | None = None
    """None until it is known which call it is."""
    has_left: bool = False
    """It waits no longer."""
    is_told: bool = False
    """Its client got an answer which is not the call's."""
    wish: str | None = None
    """Why its client wants the call stopped, as far as it has said so before the call was known."""
    is_cancelled: bool = False
    """Its client wanted the call stopped; once is enough, a second time would interrupt the call's clean-up."""

    def shed(self) -> None:
        """Keep what it can still be named by, and not what it brought: thousands are remembered."""
        self.request = replace(self.request, arguments=b"", context=None)
        self.waiting = Waiting(Nobody())


class Seats:
    def __init__(self) -> None:
        self._at: dict[str, list[Seat]] = {}
        self._named: dict[RequestRef, Seat] = {}
        self._left: OrderedDict[RequestRef, Seat] = OrderedDict()
        self._early: OrderedDict[RequestRef, CancelNote] = OrderedDict()

    def __iter__(self) -> Iterator[Seat]:
        return iter([seat for seats in self._at.values() for seat in seats])

    def at(self, call_id: str) -> list[Seat]:
        return self._at.get(call_id, [])

    def named(self, ref: RequestRef) -> Seat | None:
        return self._named.get(ref) or self._left.get(ref)

    def of_peer(self, peer: str) -> list[Seat]:
        """All of a connection or session that may still be heard of."""
        known = [*self._named.items(), *self._left.items()]
        return list(dict.fromkeys(seat for ref, seat in known if ref.peer == peer))

    def expect(self, seat: Seat) -> CancelNote | None:
        """It can be named from now on. Returns what was said of it before."""
        if seat.ref is None:
            return None
        self._named[seat.ref] = seat
        return self._early.pop(seat.ref, None)

    def note_early(self, note: CancelNote) -> None:
        """Its request is on its way to a call, or will never have one: both look the same from here."""
        self._early[note.request] = note
        if len(self._early) > REMEMBERED:
            self._early.popitem(last=False)

    def take(self, seat: Seat, call_id: str) -> None:
        seat.call_id = call_id
        if not seat.has_left:
            self._at.setdefault(call_id, []).append(seat)

    def leave(self, seat: Seat) -> None:
        """It waits no longer."""
        seat.has_left = True
        if seat.ref in self._left:
            seat.shed()
        if seat.call_id is None:
            return
        seats = self._at[seat.call_id]
        seats.remove(seat)
        if not seats:
            del self._at[seat.call_id]

    def remember(self, seat: Seat) -> None:
        """Its client has left without an answer."""
        if seat.ref is not None:
            self.forget(seat)
            self._left[seat.ref] = seat
            if seat.has_left:
                seat.shed()
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)

    def forget(self, seat: Seat) -> None:
        """Nothing about it can come any more."""
        for refs in (self._named, self._left):
            # A client that gives two requests one id hurts itself alone, and not for long.
            if seat.ref is not None and refs.get(seat.ref) is seat:
                del refs[seat.ref]
