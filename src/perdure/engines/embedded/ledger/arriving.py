"""What comes to a call from outside, wherever it may be: requests, signals, cancels, an operator's hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from perdure.core.events import CancelAsked, Signalled
from perdure.engine import Accepted, Answer, Cancel, Request, Signal
from perdure.engines.embedded.journal import Deliver, Delivered, ReleaseCall, RetryCall
from perdure.engines.embedded.ledger.asking import answer_question
from perdure.engines.embedded.ledger.ending import KEPT, end_unrun
from perdure.engines.embedded.ledger.inbox import put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.rows import (
    ARGUMENTS,
    AT_ONCE,
    NEW_LIFE,
    find_view,
    is_once,
    principal_from,
    signals_from,
)
from perdure.engines.embedded.ledger.starting import find, insert
from perdure.errors import AlreadyAnswered, CallEnded, CallNotFound, Refused

# One that never began goes on waiting for its time.
RELEASE = f"""
    UPDATE calls SET epoch = epoch + 1, owner = NULL, {NEW_LIFE},
        wake_at = CASE WHEN begun = 0 AND owner IS NULL THEN wake_at ELSE ? END
    WHERE n = ?"""


# Asked a second time, because the answer was lost or a button was pressed twice.
RETRIED = "SELECT id FROM calls WHERE retry_of = ? AND status NOT IN ('failed', 'cancelled') ORDER BY n DESC LIMIT 1"


def deliver(ledger: Ledger, write: Deliver) -> Delivered:
    n, ended, status, shared, signals, unbegun = _find(
        ledger, write.call_id, "n, ended, status, shared, signals, begun = 0 AND delay > 0"
    )
    if ended is not None:
        raise CallEnded(find_view(ledger, n))
    match write.delivery:
        case Signal(name, value):
            ledger.check_size(value, f"The value of signal {name!r}")
            if is_once(signals, name):
                _count_once(ledger, n, name)
            return put(ledger, n, Signalled(name, value, write.at))
        case Answer():
            return answer_question(ledger, n, write.delivery, write.at)
        case Cancel(reason, caller):
            if shared and caller is not None and _others_hold(ledger, n, caller):
                return Delivered(n, None)
            if caller is not None:
                ledger.execute("UPDATE calls SET unwanted = 1 WHERE n = ?", (n,))
            if status == "stuck" or unbegun:
                return end_unrun(ledger, n, reason, write.at)
            return put(ledger, n, CancelAsked(reason, write.at))


def _count_once(ledger: Ledger, n: int, name: str) -> None:
    if not ledger.execute("INSERT OR IGNORE INTO once (call, name) VALUES (?, ?)", (n, name)).rowcount:
        raise AlreadyAnswered(find_view(ledger, n), name)


def _others_hold(ledger: Ledger, n: int, caller: str) -> bool:
    ledger.execute("DELETE FROM holders WHERE call = ? AND caller = ?", (n, caller))
    return ledger.row("SELECT 1 FROM holders WHERE call = ?", (n,)) is not None


def release_call(ledger: Ledger, write: ReleaseCall) -> Delivered:
    n, ended, status = _find(ledger, write.call_id, "n, ended, status")
    if ended is not None:
        raise CallEnded(find_view(ledger, n))
    wake_at = None if status == "stuck" else ledger.clock() - AT_ONCE
    ledger.execute(RELEASE, (wake_at, n))
    return Delivered(n, None)


def retry_call(ledger: Ledger, write: RetryCall) -> Accepted:
    n, status = _find(ledger, write.call_id, "n, status")
    if status == "stuck":
        _go_on(ledger, n)
        return Accepted(write.call_id, "attached")
    if status not in ("failed", "cancelled"):
        raise Refused(f"Call {write.call_id} is {status}: only what is stuck, failed or cancelled can be retried.")
    again = ledger.row(RETRIED, (write.call_id,))
    if again is not None:
        return Accepted(again[0], "attached")
    ledger.execute(f"UPDATE calls SET holds = NULL, expires = coalesce(expires, ? + {KEPT}) WHERE n = ?", (write.at, n))
    request = _as_requested(ledger, n)
    found = find(ledger, request, write.at)
    if found is not None:
        return found[1]
    new = insert(ledger, request, write.new_call_id, write.at, write.seed, write.python, None, write.call_id)
    if request.shared:
        _hand_on(ledger, n, new.n)
    return Accepted(new.call_id, "new")


def _hand_on(ledger: Ledger, former: int, n: int) -> None:
    """Who held the shared call holds the new one, and nobody else."""
    ledger.execute("DELETE FROM holders WHERE call = ?", (n,))
    ledger.execute("INSERT INTO holders (call, caller) SELECT ?, caller FROM holders WHERE call = ?", (n, former))


def _go_on(ledger: Ledger, n: int) -> None:
    ledger.execute(
        "UPDATE calls SET status = 'running', failure = NULL, crashes = 0, diverged = 0, version = version + 1, "
        "wake_at = ? WHERE n = ?",
        (ledger.clock() - AT_ONCE, n),
    )


def _as_requested(ledger: Ledger, n: int) -> Request:
    """The request of an earlier call again, without who waited for it and without its idempotency key."""
    row = ledger.row(
        f"SELECT function, tool, kind, {ARGUMENTS}, digest, caller, principal, key, shared, reuse, retain, "
        "on_disconnect, signals, deadline - created - delay, identical FROM calls WHERE n = ?",
        (n,),
    )
    assert row is not None
    (function, tool, kind, arguments, digest, caller, principal, key, shared, reuse, retain, on_disconnect) = row[:12]
    signals, deadline, identical = row[12:]
    return Request(
        function=function,
        tool=tool,
        kind=kind,
        arguments=arguments,
        digest=digest,
        caller=caller,
        principal=None if principal is None else principal_from(principal),
        key=key,
        shared=bool(shared),
        reuse=None if reuse is None else timedelta(seconds=reuse),
        retain=timedelta(seconds=retain),
        deadline=None if deadline is None else timedelta(seconds=deadline),
        on_disconnect=on_disconnect,
        attach_identical=bool(identical),
        signals=() if signals is None else signals_from(signals),
    )


def _find(ledger: Ledger, call_id: str, columns: str) -> tuple[Any, ...]:
    row = ledger.row(f"SELECT {columns} FROM calls WHERE id = ?", (call_id,))
    if row is None:
        raise CallNotFound(call_id)
    return row
