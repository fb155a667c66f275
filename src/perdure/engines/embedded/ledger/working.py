"""What processes write about themselves and their work: claims, offers, take-overs, removal of what is old."""

from __future__ import annotations

import json

from perdure.engines.embedded.journal import (
    Claim,
    Claimed,
    Held,
    Leave,
    Offer,
    Register,
    RemoveExpired,
    TakeOver,
)
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.loading import attempts_of, events_of, inboxes_of
from perdure.engines.embedded.ledger.rows import AT_ONCE, HELD, VERSIONS_OF_A_LIFE, as_json, held_of
from perdure.engines.embedded.ledger.waiting import let_go_of_all

EVENTS_REMOVED = 20_000
"""About as many events as one unit removes: other writers wait for it."""

FUNCTIONS_WITH_WORK = """
    SELECT value FROM json_each(?)
    WHERE EXISTS (SELECT 1 FROM calls WHERE owner IS NULL AND function = value AND wake_at <= ? AND ended IS NULL)"""

DUE = """
    SELECT wake_at, n FROM calls WHERE owner IS NULL AND function = ? AND wake_at <= ? AND ended IS NULL
    ORDER BY wake_at LIMIT ?"""

TO_TRY = """
    SELECT n FROM tries JOIN calls ON n = call
    WHERE process = ? AND owner IS NULL AND diverged AND function IN (SELECT value FROM json_each(?)) LIMIT ?"""

CLAIM = """
    UPDATE calls SET owner = ?, epoch = epoch + 1, begun = begun + 1, wake_at = NULL, diverged = 0,
        version = version + ?,
        status = CASE status WHEN 'stuck' THEN 'running' ELSE status END,
        failure = NULL
    WHERE n = ?"""

HELD_ROW = f"SELECT {HELD} FROM calls WHERE n = ?"

# What is theirs of calls that are removed; the calls themselves go last.
OF_REMOVED = (
    "DELETE FROM events WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM large_arguments WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM inbox WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM attempts WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM waits WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM resumable WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM holders WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM idempotency WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM once WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM links WHERE child IN (SELECT value FROM json_each(?))",
    "DELETE FROM links WHERE parent IN (SELECT value FROM json_each(?))",
    "DELETE FROM questions WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM questions WHERE shown IN (SELECT value FROM json_each(?))",
    "DELETE FROM tries WHERE call IN (SELECT value FROM json_each(?))",
    "DELETE FROM calls WHERE n IN (SELECT value FROM json_each(?))",
)


def claim(ledger: Ledger, write: Claim) -> tuple[Claimed, ...]:
    calls = [*_to_try(ledger, write), *_due(ledger, write)][: write.limit]
    if not calls:
        return ()
    held = [_own(ledger, write, n) for n in calls]
    (events, unreadable), attempts, inboxes = (
        events_of(ledger, calls),
        attempts_of(ledger, calls),
        inboxes_of(ledger, calls),
    )
    return tuple(
        Claimed(h, tuple(events[h.n]), tuple(attempts[h.n]), tuple(inboxes[h.n]), unreadable.get(h.n)) for h in held
    )


def _to_try(ledger: Ledger, write: Claim) -> list[int]:
    rows = ledger.execute(TO_TRY, (write.process, as_json(write.functions), write.limit)).fetchall()
    for row in rows:
        ledger.execute("DELETE FROM tries WHERE process = ? AND call = ?", (write.process, *row))
    return [n for (n,) in rows]


def _due(ledger: Ledger, write: Claim) -> list[int]:
    due: list[tuple[float, int]] = []
    for (function,) in ledger.execute(FUNCTIONS_WITH_WORK, (as_json(write.functions), write.now)).fetchall():
        due += ledger.execute(DUE, (function, write.now, write.limit))
    due.sort()
    return [n for _, n in due]


def _own(ledger: Ledger, write: Claim, n: int) -> Held:
    ledger.execute(CLAIM, (write.process, VERSIONS_OF_A_LIFE, n))
    row = ledger.row(HELD_ROW, (n,))
    assert row is not None
    return held_of(row, write.now)


# --- processes ------------------------------------------------------------------------------------


def register(ledger: Ledger, write: Register) -> int:
    values = (write.name, write.pid, write.port)
    process = ledger.execute("INSERT INTO processes (name, pid, port) VALUES (?, ?, ?)", values).lastrowid
    assert process is not None
    return process


def offer(ledger: Ledger, write: Offer) -> None:
    """Of functions that the process did not offer before, it tries once what diverged elsewhere."""
    for function in write.functions:
        values = (function, write.process)
        if ledger.execute("INSERT OR IGNORE INTO offers (function, process) VALUES (?, ?)", values).rowcount:
            ledger.execute(
                "INSERT OR IGNORE INTO tries (process, call) SELECT ?, n FROM calls WHERE function = ? AND diverged",
                (write.process, function),
            )


def take_over(ledger: Ledger, write: TakeOver) -> int:
    return _forget_process(ledger, write.process, crashes=1)


def leave(ledger: Ledger, write: Leave) -> None:
    _forget_process(ledger, write.process, crashes=0)


def _forget_process(ledger: Ledger, process: int, crashes: int) -> int:
    taken = ledger.execute(
        "UPDATE calls SET owner = NULL, epoch = epoch + 1, crashes = crashes + ?, wake_at = ? "
        "WHERE owner = ? AND ended IS NULL",
        (crashes, ledger.clock() - AT_ONCE, process),
    ).rowcount
    let_go_of_all(ledger, process)
    ledger.execute("DELETE FROM offers WHERE process = ?", (process,))
    ledger.execute("DELETE FROM tries WHERE process = ?", (process,))
    ledger.execute("DELETE FROM processes WHERE id = ?", (process,))
    return taken


# --- retention ------------------------------------------------------------------------------------


def remove_expired(ledger: Ledger, write: RemoveExpired) -> int:
    """Removes fewer than `limit` when their journals are long."""
    expired = ledger.execute(
        "SELECT n, seq FROM calls WHERE expires <= ? ORDER BY expires LIMIT ?", (write.now, write.limit)
    )
    chosen: list[int] = []
    events = 0
    for n, seq in expired:
        chosen.append(n)
        events += seq
        if events >= EVENTS_REMOVED:
            break
    if chosen:
        calls = json.dumps(chosen)
        for delete in OF_REMOVED:
            ledger.execute(delete, (calls,))
    return len(chosen)
