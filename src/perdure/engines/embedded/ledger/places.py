"""Where in its journal a call has come, and what is put there. Only the claim with the latest epoch may."""

from __future__ import annotations

from perdure.core.events import Event
from perdure.engines.embedded.journal import Fenced
from perdure.engines.embedded.ledger.ledger import Ledger

PUT = "INSERT INTO events (call, seq, body) VALUES (?, ?, ?)"

PUT_COUNTED = "INSERT INTO events (call, seq, body) VALUES (?, (SELECT seq FROM calls WHERE n = ?) - ?, ?)"


def take_place(ledger: Ledger, n: int, epoch: int, at: float) -> int:
    """The place of the one event that this unit adds."""
    row = ledger.row("SELECT seq FROM calls WHERE n = ? AND epoch = ?", (n, epoch))
    if row is None:
        raise Fenced
    ledger.execute("UPDATE calls SET seq = seq + 1, updated = ?, version = version + 1 WHERE n = ?", (at, n))
    return row[0]


def add_events(ledger: Ledger, n: int, seq: int, events: tuple[Event, ...]) -> None:
    for event in events:
        ledger.execute(PUT, (n, seq, ledger.encode(event)))
        seq += 1


def add_counted(ledger: Ledger, n: int, bodies: list[bytes]) -> None:
    """The call's row counts them already: it was changed and its claim checked in one statement."""
    for left in range(len(bodies), 0, -1):
        ledger.execute(PUT_COUNTED, (n, n, left, bodies[-left]))
