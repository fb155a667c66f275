"""The end of a call: its outcome, what becomes of its key, and who is told."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.core.codec import encode_error, error_message, error_type
from perdure.core.events import CancelAsked, Cancelled, ChildEnded, Completed, End, Failed
from perdure.engines.embedded.journal import Delivered, Fenced
from perdure.engines.embedded.ledger.asking import show_elsewhere, withdraw_all
from perdure.engines.embedded.ledger.inbox import put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.loading import inbox_after
from perdure.engines.embedded.ledger.rows import VERSIONS_OF_A_LIFE, cancellation
from perdure.errors import CallFailed

KEPT = "max(retain, coalesce(reuse, 0))"
"""Seconds that an ended call is kept."""

END = f"""
    UPDATE calls SET status = ?, ended = ?, expires = ? + {KEPT}, seq = seq + ?,
        version = version + {VERSIONS_OF_A_LIFE}, crashes = 0, owner = NULL, wake_at = NULL, {{}} = ?
    WHERE n = ? AND epoch = ?"""

COMPLETE, FAIL = END.format("outcome"), END.format("failure")

TIES = """
    SELECT EXISTS (SELECT 1 FROM links WHERE child = ?), EXISTS (SELECT 1 FROM links WHERE parent = ?),
        EXISTS (SELECT 1 FROM questions WHERE call = ? AND state = 'open')"""

# What a call started itself; one with a key may be another's.
CHILD = """
    SELECT status = 'stuck' OR (begun = 0 AND delay > 0) FROM calls
    WHERE n = ? AND ended IS NULL AND parent = (SELECT id FROM calls WHERE n = ?)"""

# Those whose child it is as well go first.
AWAITED = """
    SELECT id, own FROM links JOIN calls ON n = links.parent WHERE child = ? AND ended IS NULL
    ORDER BY own DESC, n LIMIT 1"""


def end_call(
    ledger: Ledger, n: int, epoch: int, end: End, *, events: int = 0, keeps_key: bool = False
) -> tuple[Delivered, ...]:
    """The parents that were told; `events` come with the end. A key is kept when nobody knows what happened."""
    sql, status, payload = _outcome(ledger, end)
    if not ledger.execute(sql, (status, end.at, end.at, events, payload, n, epoch)).rowcount:
        raise Fenced
    # In statements of their own, because few calls need them and an index is looked at for each column set.
    if isinstance(end, Cancelled):
        ledger.execute("UPDATE calls SET reason = ?, diverged = 0 WHERE n = ?", (end.reason, n))
    if keeps_key:  # nor must it become free by the call being forgotten
        ledger.execute("UPDATE calls SET expires = NULL WHERE n = ? AND holds IS NOT NULL", (n,))
    elif not isinstance(end, Completed):
        ledger.execute("UPDATE calls SET holds = NULL WHERE n = ?", (n,))
    return _cut_ties(ledger, n, end.at)


def _cut_ties(ledger: Ledger, n: int, at: float) -> tuple[Delivered, ...]:
    """Tell who waits for it, and give up what it waits for: also what was on its way when its body ended."""
    ties = ledger.row(TIES, (n, n, n))
    assert ties is not None
    is_awaited, awaits, asks = ties
    told = _tell_parents(ledger, n) if is_awaited else ()
    if awaits:
        told = (*told, *give_up_all(ledger, n, at))
    return (*told, *withdraw_all(ledger, n)) if asks else told


def give_up(ledger: Ledger, n: int, keys: Iterable[str], at: float) -> list[Delivered]:
    """The call waits at these places no more. Without its link a child is not asked a second time, which would end
    its clean-up."""
    children: dict[int, bool] = {}
    for key in keys:
        for child, own in ledger.execute("SELECT child, own FROM links WHERE parent = ? AND key = ?", (n, key)):
            children[child] = children.get(child, False) or bool(own)
        ledger.execute("DELETE FROM links WHERE parent = ? AND key = ?", (n, key))
    told: list[Delivered] = []
    for child, own in children.items():
        if own:
            told += _cancel_child(ledger, n, child, at)
        told += show_elsewhere(ledger, child)
    return told


def _cancel_child(ledger: Ledger, n: int, child: int, at: float) -> tuple[Delivered, ...]:
    running = ledger.row(CHILD, (child, n))
    if running is None:
        return ()
    awaited = ledger.row(AWAITED, (child,))
    if awaited is not None:
        if awaited[1]:  # whoever is left takes it along
            ledger.execute("UPDATE calls SET parent = ? WHERE n = ?", (awaited[0], child))
        return ()
    if running[0]:
        ended = end_unrun(ledger, child, "", at)
        return (ended, *ended.parents)
    return (put(ledger, child, CancelAsked("", at)),)


def give_up_all(ledger: Ledger, n: int, at: float) -> list[Delivered]:
    """Also those whose start was on its way when the body ended."""
    keys = ledger.execute("SELECT key FROM links WHERE parent = ?", (n,)).fetchall()
    return give_up(ledger, n, [key for (key,) in keys], at)


def _tell_parents(ledger: Ledger, n: int) -> tuple[Delivered, ...]:
    """Whoever waits in a body for the call gets its end into the inbox."""
    links = ledger.execute("SELECT parent, key FROM links WHERE child = ?", (n,)).fetchall()
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


def end_unrun(ledger: Ledger, n: int, reason: str, at: float) -> Delivered:
    """A call that is cancelled without clean-up: stuck, so its code cannot be trusted with it, or never begun."""
    row = ledger.row("SELECT epoch FROM calls WHERE n = ?", (n,))
    assert row is not None
    ended = end_call(ledger, n, row[0], Cancelled(reason, at))
    return Delivered(n, None, ended=True, parents=ended)


def end_if_cancelled(ledger: Ledger, n: int, at: float) -> Delivered | None:
    """A call that becomes stuck with a cancel in its inbox: nobody will look there again."""
    asked = [row.event for row in inbox_after(ledger, n, 0) if isinstance(row.event, CancelAsked)]
    return end_unrun(ledger, n, asked[0].reason, at) if asked else None


def _outcome(ledger: Ledger, end: End) -> tuple[str, str, bytes]:
    """The statement, the status, and what goes into the row."""
    match end:
        case Completed(value):
            ledger.check_size(value, "The value of the outcome")
            return COMPLETE, "completed", value
        case Failed(error):
            ledger.check_size(error, "The value of the failure")
            return FAIL, "failed", error
        case Cancelled(reason):
            return FAIL, "cancelled", cancellation(reason)
