"""What the owner of a call writes: units of its journal, each conditional on the epoch of its claim."""

from __future__ import annotations

import secrets

from perdure.core.call import PYTHON, new_call_id
from perdure.core.codec import encode_error
from perdure.core.events import (
    ChildRefused,
    ChildStarted,
    StepLate,
    StepRaised,
    StepReturned,
    StoreReturned,
)
from perdure.engine import StoreReply
from perdure.engines.embedded.journal import (
    Append,
    AppendChild,
    AppendJoin,
    AppendStore,
    Delivered,
    Fenced,
    ForgetCrashes,
    MarkStuck,
    NoteAttempt,
    Overtaken,
    Yield,
)
from perdure.engines.embedded.ledger.asking import has_answer, withdraw
from perdure.engines.embedded.ledger.ending import child_ended, end_call, end_if_cancelled, give_up
from perdure.engines.embedded.ledger.inbox import drop, put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.places import add_counted, add_events, take_place
from perdure.engines.embedded.ledger.rows import AT_ONCE, NEW_LIFE, VERSIONS_OF_A_LIFE, progress_to
from perdure.engines.embedded.ledger.starting import bind, find, insert
from perdure.engines.embedded.ledger.stores import use_store
from perdure.errors import CallNotFound, PayloadTooLarge, PerdureError, Refused


def _go_on_sql(also: str = "") -> str:
    # What an abandoned step came to may come after the end, which stays the end.
    return f"""
        UPDATE calls SET status = CASE WHEN ended IS NULL THEN ? ELSE status END, updated = ?, seq = seq + ?,
            version = version + 1{also}
        WHERE n = ? AND epoch = ?"""


GO_ON = _go_on_sql()

GO_ON_AFTER_STEP = _go_on_sql(", crashes = 0")

OUTCOMES = (StepReturned, StepRaised, StepLate)
"""Nothing else shows that a step does not kill its process."""

PARK = f"""
    UPDATE calls SET owner = NULL, version = version + {VERSIONS_OF_A_LIFE},
        wake_at = CASE WHEN EXISTS (SELECT 1 FROM inbox WHERE call = n) THEN ? ELSE ? END
    WHERE n = ?"""

GIVE_WAY = f"""
    UPDATE calls SET epoch = epoch + 1, owner = NULL, {NEW_LIFE}, wake_at = ? WHERE n = ? AND epoch = ?"""

ATTEMPT = """
    INSERT OR REPLACE INTO attempts (call, key, name, count, ended, first_began, last_began, first_error, last_error,
        next_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def append(ledger: Ledger, write: Append) -> tuple[Delivered, ...] | Overtaken:
    n, end, events = write.n, write.end, write.events
    if write.gives_way and has_answer(ledger, n, write.withdrawn):
        return _give_way(ledger, write)
    bodies = [ledger.encode(event) for event in events]
    told: tuple[Delivered, ...] = ()
    if end is None:
        _go_on(ledger, write)
    else:
        told = end_call(ledger, n, write.epoch, end, events=len(events), keeps_key=write.keeps_key)
    if bodies:
        add_counted(ledger, n, bodies)
    if write.consumed:
        drop(ledger, n, write.consumed)
    for name in write.unsent:
        ledger.execute("DELETE FROM once WHERE call = ? AND name = ?", (n, name))
    if write.status_text is not None or write.progress is not None:
        _say(ledger, write)
    if write.park:
        ledger.execute(PARK, (ledger.clock() - AT_ONCE, write.wake_at, n))
    if write.withdrawn:
        told = (*told, *withdraw(ledger, n, write.withdrawn))
    if write.unfollowed:
        told = (*told, *give_up(ledger, n, write.unfollowed, write.at))
    return told


def _give_way(ledger: Ledger, write: Append) -> Overtaken:
    # No rollback: it would let through the units behind this one, which follow from it.
    if not ledger.execute(GIVE_WAY, (ledger.clock() - AT_ONCE, write.n, write.epoch)).rowcount:
        raise Fenced
    return Overtaken()


def _go_on(ledger: Ledger, write: Append) -> None:
    events = write.events
    go_on = GO_ON_AFTER_STEP if any(isinstance(event, OUTCOMES) for event in events) else GO_ON
    if not ledger.execute(go_on, (write.status, write.at, len(events), write.n, write.epoch)).rowcount:
        raise Fenced


def _say(ledger: Ledger, write: Append) -> None:
    if write.status_text is not None:
        ledger.check_size(write.status_text.encode(), "The text of set_status")
        ledger.check_size(write.status_data, "The value of set_status")
        ledger.execute(
            "UPDATE calls SET text = ?, data = ? WHERE n = ?", (write.status_text, write.status_data, write.n)
        )
    if write.progress is not None:
        ledger.execute("UPDATE calls SET progress = ? WHERE n = ?", (progress_to(write.progress), write.n))


def note_attempt(ledger: Ledger, write: NoteAttempt) -> None:
    noted = ledger.execute(
        "UPDATE calls SET status = ?, crashes = 0, version = version + 1 WHERE n = ? AND epoch = ?",
        (write.status, write.n, write.epoch),
    )
    if not noted.rowcount:
        raise Fenced
    a = write.attempt
    ledger.execute(
        ATTEMPT,
        (
            write.n,
            a.key,
            a.name,
            a.count,
            a.ended,
            a.first_began,
            a.last_began,
            a.first_error,
            a.last_error,
            a.next_at,
        ),
    )


def mark_stuck(ledger: Ledger, write: MarkStuck) -> Delivered | None:
    marked = ledger.execute(
        "UPDATE calls SET status = 'stuck', failure = ?, diverged = ?, owner = NULL, wake_at = NULL, "
        f"version = version + {VERSIONS_OF_A_LIFE} WHERE n = ? AND epoch = ? AND ended IS NULL",
        (write.failure, write.diverged, write.n, write.epoch),
    )
    if not marked.rowcount:
        raise Fenced
    return end_if_cancelled(ledger, write.n, write.at)


def yield_call(ledger: Ledger, write: Yield) -> None:
    yielded = ledger.execute(
        f"UPDATE calls SET owner = NULL, begun = begun - ?, version = version + {VERSIONS_OF_A_LIFE}, wake_at = ? "
        "WHERE n = ? AND epoch = ? AND ended IS NULL",
        (not write.begun, ledger.clock() - AT_ONCE, write.n, write.epoch),
    )
    if not yielded.rowcount:
        raise Fenced


def forget_crashes(ledger: Ledger, write: ForgetCrashes) -> None:
    if not ledger.execute("UPDATE calls SET crashes = 0 WHERE n = ? AND epoch = ?", (write.n, write.epoch)).rowcount:
        raise Fenced


# --- units whose events only the database knows ---------------------------------------------------


def append_store(ledger: Ledger, write: AppendStore) -> StoreReply:
    seq = take_place(ledger, write.n, write.epoch, write.at)
    try:
        reply = use_store(ledger, write.store, write.operation)
        raw = reply.to_bytes()
        ledger.check_size(raw, f"The value of {write.name!r}")
    except PayloadTooLarge as refusal:
        reply = StoreReply(False, refusal=encode_error(refusal))
        raw = reply.to_bytes()
    add_events(ledger, write.n, seq, (StoreReturned(write.key, write.name, write.digest, raw, write.at),))
    return reply


def append_child(ledger: Ledger, write: AppendChild) -> ChildStarted | ChildRefused:
    seq = take_place(ledger, write.n, write.epoch, write.at)
    request = write.request
    try:
        ledger.check_size(request.arguments, f"The value of the arguments of {request.tool!r}")
        found = find(ledger, request, write.at)
    except (Refused, PayloadTooLarge) as refusal:
        return _refuse(ledger, write, seq, refusal)
    if found is None:
        seed = secrets.randbits(63)
        new = insert(ledger, request, new_call_id(), write.at, seed, PYTHON, None)
        n, call_id = new.n, new.call_id
    else:
        n, call_id = found[0], found[1].call_id
        bind(ledger, n, request)
    if not write.detached:
        _follow(ledger, write, n, own=True)
    return _started(ledger, write, seq, call_id)


def append_join(ledger: Ledger, write: AppendJoin) -> ChildStarted | ChildRefused:
    seq = take_place(ledger, write.n, write.epoch, write.at)
    found = ledger.row("SELECT n FROM calls WHERE id = ?", (write.call_id,))
    if found is None:
        return _refuse(ledger, write, seq, CallNotFound(write.call_id))
    _follow(ledger, write, found[0], own=False)
    return _started(ledger, write, seq, write.call_id)


def _follow(ledger: Ledger, write: AppendChild | AppendJoin, child: int, *, own: bool) -> None:
    """The parent gets the end of the child into its inbox; at once if the child has ended."""
    if ledger.row("SELECT 1 FROM calls WHERE n = ? AND ended IS NOT NULL", (child,)) is not None:
        put(ledger, write.n, child_ended(ledger, child, write.key))
    else:
        link = (child, write.n, write.key, own)
        ledger.execute("INSERT OR IGNORE INTO links (child, parent, key, own) VALUES (?, ?, ?, ?)", link)


def _started(ledger: Ledger, write: AppendChild | AppendJoin, seq: int, call_id: str) -> ChildStarted:
    event = ChildStarted(write.key, write.name, write.digest, call_id, write.at)
    add_events(ledger, write.n, seq, (event,))
    return event


def _refuse(ledger: Ledger, write: AppendChild | AppendJoin, seq: int, error: PerdureError) -> ChildRefused:
    event = ChildRefused(write.key, write.name, write.digest, encode_error(error), write.at)
    add_events(ledger, write.n, seq, (event,))
    return event
