"""What there is of calls beyond their rows, for many calls in one statement each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from perdure.core.codec import decode_event
from perdure.core.events import Event
from perdure.engines.embedded.journal import Attempt, InboxRow
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.errors import StorageError

EVENTS = "SELECT call, body FROM events WHERE call IN (SELECT value FROM json_each(?)) ORDER BY call, seq"

ATTEMPTS = """
    SELECT call, key, name, count, ended, first_began, last_began, first_error, last_error, next_at FROM attempts
    WHERE call IN (SELECT value FROM json_each(?)) ORDER BY first_began, key"""

INBOXES = "SELECT call, row, body FROM inbox WHERE call IN (SELECT value FROM json_each(?)) ORDER BY row"


def events_of(ledger: Ledger, calls: Sequence[int]) -> tuple[dict[int, list[Event]], dict[int, StorageError]]:
    """The events of each call, and of which calls they cannot be read."""
    found: defaultdict[int, list[Event]] = defaultdict(list)
    unreadable: dict[int, StorageError] = {}
    for n, body in ledger.execute(EVENTS, (json.dumps(calls),)):
        try:
            found[n].append(decode_event(body))
        except StorageError as error:
            unreadable.setdefault(n, error)
    return found, unreadable


def attempts_of(ledger: Ledger, calls: Sequence[int]) -> dict[int, list[Attempt]]:
    found: defaultdict[int, list[Attempt]] = defaultdict(list)
    for n, key, name, count, ended, *rest in ledger.execute(ATTEMPTS, (json.dumps(calls),)):
        found[n].append(Attempt(key, name, count, bool(ended), *rest))
    return found


def inboxes_of(ledger: Ledger, calls: Sequence[int]) -> dict[int, list[InboxRow]]:
    found: defaultdict[int, list[InboxRow]] = defaultdict(list)
    for n, row, body in ledger.execute(INBOXES, (json.dumps(calls),)):
        found[n].append(_inbox_row(row, body))
    return found


def inbox_after(ledger: Ledger, n: int, row: int) -> tuple[InboxRow, ...]:
    found = ledger.execute("SELECT row, body FROM inbox WHERE call = ? AND row > ? ORDER BY row", (n, row))
    return tuple(_inbox_row(row, body) for row, body in found)


def _inbox_row(row: int, body: bytes) -> InboxRow:
    return InboxRow(row, decode_event(body))  # pyright: ignore[reportArgumentType]  only what is fed is put in
