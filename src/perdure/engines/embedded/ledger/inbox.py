"""The inbox of a call, and how a call that nobody owns becomes due."""

from __future__ import annotations

from perdure.core.events import Fed
from perdure.engines.embedded.journal import Delivered
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.rows import AT_ONCE


def put(ledger: Ledger, n: int, event: Fed) -> Delivered:
    """For a call that has not ended. A stuck one keeps it until it goes on, one that never began until its time."""
    ledger.execute("INSERT INTO inbox (call, body) VALUES (?, ?)", (n, ledger.encode(event)))
    row = ledger.row("SELECT owner, status, wake_at, begun FROM calls WHERE n = ?", (n,))
    assert row is not None
    owner, status, wake_at, begun = row
    if owner is None and begun and status != "stuck" and (wake_at is None or wake_at >= 0):
        ledger.execute("UPDATE calls SET wake_at = ? WHERE n = ?", (ledger.clock() - AT_ONCE, n))
    return Delivered(n, owner)


def drop(ledger: Ledger, n: int, rows: tuple[int, ...]) -> None:
    for row in rows:
        ledger.execute("DELETE FROM inbox WHERE row = ? AND call = ?", (row, n))
