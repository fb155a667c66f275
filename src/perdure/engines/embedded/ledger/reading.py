"""Everything that is asked of the storage; what is read is committed."""

from __future__ import annotations

from perdure.core.events import Cancelled, Completed, End, Event, Failed, Started
from perdure.engine import CallView, Page
from perdure.engines.embedded.journal import (
    Arrived,
    FindCalls,
    HolderOf,
    InboxRow,
    LastHolder,
    NextDue,
    NextExpiry,
    Owned,
    Process,
    Processes,
    ReadInbox,
    ReadRecord,
    Record,
    View,
)
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.loading import attempts_of, events_of, inbox_after, inboxes_of
from perdure.engines.embedded.ledger.rows import (
    ARGUMENTS,
    AT_ONCE,
    STARTS,
    UNSERVED_AFTER,
    VIEW,
    as_json,
    principal_from,
    view_of,
)
from perdure.engines.embedded.ledger.starting import is_reuse_over, key_of_anybody, key_of_caller
from perdure.errors import CallNotFound, Refused

VIEW_BY_ID = f"SELECT {VIEW} FROM calls WHERE id = ?"

RECORD = f"""
    SELECT {VIEW}, {STARTS}, seed, python, reason, caller, principal, deadline, {ARGUMENTS} FROM calls
    WHERE id = ?"""

HOLDERS = f"SELECT {VIEW}, reuse FROM calls WHERE holds >= ? AND holds <= ? ORDER BY n DESC"

LAST_HOLDER = f"SELECT {VIEW} FROM calls WHERE holds >= ? AND holds <= ? ORDER BY holds DESC LIMIT 1"

NEXT_DUE = """
    SELECT min((
        SELECT min(wake_at) FROM calls
        WHERE owner IS NULL AND function = value AND wake_at IS NOT NULL AND ended IS NULL))
    FROM json_each(?)"""

ARRIVED = "SELECT DISTINCT call FROM inbox WHERE (SELECT owner FROM calls WHERE n = call) = ?"

UNSERVED = """
    (owner IS NULL AND ended IS NULL AND wake_at IS NOT NULL AND (wake_at BETWEEN 0 AND :due OR wake_at <= :at_once)
        AND NOT EXISTS (SELECT 1 FROM offers WHERE offers.function = calls.function))"""


def view(ledger: Ledger, read: View) -> CallView:
    row = ledger.row(VIEW_BY_ID, (read.call_id,))
    if row is None:
        raise CallNotFound(read.call_id)
    return view_of(row, ledger.clock())


def holder_of(ledger: Ledger, read: HolderOf) -> CallView | None:
    now = ledger.clock()
    for low, high in _key_ranges(read):
        for *row, reuse in ledger.execute(HOLDERS, (low, high)):
            found = view_of(row, now)
            ended = None if found.ended is None else found.ended.timestamp()
            if not is_reuse_over(found.status, ended, reuse, now):
                return found
    return None


def last_holder(ledger: Ledger, read: LastHolder) -> CallView | None:
    keys = tuple(key_of_caller(read.tool, key, read.caller) for key in (read.first, read.last))
    row = ledger.row(LAST_HOLDER, keys)
    return None if row is None else view_of(row, ledger.clock())


def _key_ranges(read: HolderOf) -> list[tuple[str, str]]:
    if read.caller is None:
        anybody = key_of_anybody(read.tool, read.key)
        return [(anybody, anybody + chr(0x10FFFF))]
    own, shared = (key_of_caller(read.tool, read.key, caller) for caller in (read.caller, None))
    return [(own, own), (shared, shared)]


def find_calls(ledger: Ledger, read: FindCalls) -> Page:
    query = read.query
    now = ledger.clock()
    conditions = ["1"]
    if query.after is not None:
        if not query.after.isdecimal():
            raise Refused(f"There is no page after {query.after!r}.")
        conditions.append("n < :after")
    if query.tool is not None:
        conditions.append("tool = :tool")
    if query.principal is not None:
        conditions.append("json_extract(principal, '$.subject') = :principal")
    if query.caller is not None:
        held = "EXISTS (SELECT 1 FROM holders WHERE holders.call = n AND holders.caller = :caller)"
        conditions.append(f"(calls.caller = :caller OR {held})")
    if query.status == "stuck":
        conditions.append(f"(status = 'stuck' OR {UNSERVED})")
    elif query.status is not None:
        conditions.append(f"status = :status AND NOT {UNSERVED}")
    rows = ledger.execute(
        f"SELECT {VIEW} FROM calls WHERE {' AND '.join(conditions)} ORDER BY n DESC LIMIT :rows",
        {
            "after": query.after,
            "tool": query.tool,
            "principal": query.principal,
            "caller": query.caller,
            "status": query.status,
            "due": now - UNSERVED_AFTER,
            "at_once": now - UNSERVED_AFTER - AT_ONCE,
            "rows": query.limit + 1,
        },
    ).fetchall()
    shown = rows[: query.limit]
    return Page([view_of(row, now) for row in shown], str(shown[-1][0]) if len(rows) > len(shown) else None)


def read_record(ledger: Ledger, read: ReadRecord) -> Record:
    row = ledger.row(RECORD, (read.call_id,))
    if row is None:
        raise CallNotFound(read.call_id)
    *viewed, starts, seed, python, reason, caller, principal, deadline, arguments = row
    n = row[0]
    seen = view_of(viewed, ledger.clock())
    middle, unreadable = events_of(ledger, [n])
    if unreadable:
        raise unreadable[n]
    events: list[Event] = [Started(starts, int(seed), python), *middle[n]]
    end = _end(seen, reason)
    if end is not None:
        events.append(end)
    return Record(
        seen,
        arguments,
        tuple(events),
        tuple(attempts_of(ledger, [n])[n]),
        tuple(inboxes_of(ledger, [n])[n]),
        caller,
        None if principal is None else principal_from(principal),
        deadline,
    )


def _end(seen: CallView, reason: str | None) -> End | None:
    if seen.ended is None:
        return None
    at = seen.ended.timestamp()
    match seen.status:
        case "completed":
            return Completed(seen.outcome or b"", at)
        case "cancelled":
            return Cancelled(reason or "", at)
        case _:
            return Failed(seen.failure or b"", at)


def inbox(ledger: Ledger, read: ReadInbox) -> tuple[InboxRow, ...]:
    return inbox_after(ledger, read.n, read.after)


def owned(ledger: Ledger, read: Owned) -> frozenset[tuple[int, int]]:
    rows = ledger.execute("SELECT n, epoch FROM calls WHERE owner = ? AND ended IS NULL", (read.process,))
    return frozenset((n, epoch) for n, epoch in rows)


def arrived(ledger: Ledger, read: Arrived) -> tuple[int, ...]:
    rows = ledger.execute(ARRIVED, (read.process,)).fetchall()
    return tuple([n for (n,) in rows])


def next_due(ledger: Ledger, read: NextDue) -> float | None:
    row = ledger.row(NEXT_DUE, (as_json(read.functions),))
    assert row is not None
    return row[0]


def processes(ledger: Ledger, read: Processes) -> tuple[Process, ...]:
    rows = ledger.execute("SELECT id, name, pid, port FROM processes ORDER BY id", ())
    return tuple(Process(*row) for row in rows)


def next_expiry(ledger: Ledger, read: NextExpiry) -> float | None:
    row = ledger.row("SELECT min(expires) FROM calls WHERE expires IS NOT NULL", ())
    assert row is not None
    return row[0]
