"""The end of a call: its outcome, what becomes of its key, and who is told."""

from __future__ import annotations

from typing import Any

from perdure.core.codec import encode_error, error_message, error_type
from perdure.core.events import Cancelled, ChildEnded, Completed, End, Failed
from perdure.engines.embedded.journal import Delivered
from perdure.engines.embedded.ledger.inbox import put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.rows import cancellation
from perdure.errors import CallFailed

END = """
    UPDATE calls SET status = ?, outcome = ?, failure = ?, reason = ?, ended = ?,
        expires = ? + max(retain, coalesce(reuse, 0)), holds = CASE WHEN ? THEN holds END, seq = seq + ?,
        version = version + 1, crashes = 0, diverged = 0, owner = NULL, wake_at = NULL
    WHERE n = ? AND epoch = ? RETURNING seq"""


def end_call(ledger: Ledger, n: int, epoch: int, end: End, *, keeps_key: bool, events: int) -> tuple[Any, ...] | None:
    """The call's row as it ends; None where the epoch is another. `events` are written in the same unit."""
    status, outcome, failure, reason = _outcome(ledger, end)
    keeps = keeps_key or status == "completed"
    values = (status, outcome, failure, reason, end.at, end.at, keeps, events, n, epoch)
    return ledger.row(END, values)


def tell_parents(ledger: Ledger, n: int) -> tuple[Delivered, ...]:
    """Whoever waits in a body for the call gets its end into the inbox."""
    links = ledger.execute("SELECT parent, key FROM links WHERE child = ?", (n,)).fetchall()
    if not links:
        return ()
    ledger.execute("DELETE FROM links WHERE child = ?", (n,))
    told: list[Delivered] = []
    for parent, key in links:
        if ledger.row("SELECT 1 FROM calls WHERE n = ? AND ended IS NULL", (parent,)) is not None:
            told.append(put(ledger, parent, child_ended(ledger, n, key)))
    return tuple(told)


def child_ended(ledger: Ledger, n: int, key: str) -> ChildEnded:
    """What a parent that waits at `key` is fed; the call has ended."""
    row = ledger.row("SELECT id, outcome, failure, ended FROM calls WHERE n = ?", (n,))
    assert row is not None
    call_id, outcome, failure, ended = row
    if failure is None:
        return ChildEnded(key, call_id, outcome, None, ended)
    failed = CallFailed(call_id, error_type(failure), error_message(failure))
    return ChildEnded(key, call_id, None, encode_error(failed), ended)


def end_stuck(ledger: Ledger, n: int, reason: str, at: float) -> Delivered:
    """A stuck call is cancelled without clean-up: its code cannot be trusted with it."""
    row = ledger.row("UPDATE calls SET epoch = epoch + 1 WHERE n = ? RETURNING epoch", (n,))
    assert row is not None
    end_call(ledger, n, row[0], Cancelled(reason, at), keeps_key=False, events=0)
    return Delivered(n, None, ended=True, parents=tell_parents(ledger, n))


def _outcome(ledger: Ledger, end: End) -> tuple[str, bytes | None, bytes | None, str | None]:
    match end:
        case Completed(value):
            ledger.check_size(value, "The value of the outcome")
            return "completed", value, None, None
        case Failed(error):
            ledger.check_size(error, "The value of the failure")
            return "failed", None, error, None
        case Cancelled(reason):
            return "cancelled", None, cancellation(reason), reason
