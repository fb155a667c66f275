"""What call a request gets, and how a new one begins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from perdure.engine import NOBODY, Accepted, CallView, Request
from perdure.engines.embedded.journal import Held, StartCall, Started
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.rows import HEAD_START, first_epoch, principal_to, signals_to
from perdure.engines.embedded.ledger.waiting import wait
from perdure.errors import CallNotFound, Conflict

Value = str | int | float | bytes

LARGE = 2000
"""Bytes of arguments from which on they have a row of their own: about half a page."""

BY_IDEMPOTENCY_KEY = """
    SELECT n, id, function, digest FROM calls
    WHERE n = (SELECT call FROM idempotency WHERE caller = ? AND key = ?)"""

ORPHAN = """
    SELECT n, id FROM calls
    WHERE caller = ? AND function = ? AND digest = ? AND waiting = 0 AND handed = 0 AND (ended IS NULL OR ended >= ?)
        AND NOT unwanted {}
    ORDER BY n LIMIT 1"""

# Whoever gives another idempotency key says that it is another thing.
OF_NO_OTHER_KEY = "AND NOT EXISTS (SELECT 1 FROM idempotency AS i WHERE i.call = n AND i.caller = ? AND i.key <> ?)"

IDENTICAL = """
    SELECT n, id FROM calls
    WHERE caller = ? AND function = ? AND digest = ? AND identical AND ended IS NULL
    ORDER BY n LIMIT 1"""

HOLDER = "SELECT n, id, digest, status, ended, reuse FROM calls WHERE holds = ?"


def start_call(ledger: Ledger, start: StartCall) -> Started:
    request = start.request
    found = find(ledger, request, start.at)
    if found is not None:
        n, accepted = found
        bind(ledger, n, request)
        if request.waiting is not None:
            # Handed belongs to the last reply, which is now the one to this request.
            ledger.execute("UPDATE calls SET waiting = waiting + 1, handed = 0 WHERE n = ?", (n,))
            wait(ledger, request.waiting, n, start.process, request.asks)
        return Started(accepted, None)
    owner = start.process if start.own and request.after is None else None
    new = insert(ledger, request, start.call_id, start.at, start.seed, start.python, owner)
    if request.waiting is not None:
        wait(ledger, request.waiting, new.n, start.process, request.asks)
    return Started(Accepted(new.call_id, "new"), None if owner is None else _held(new, start))


def bind(ledger: Ledger, n: int, request: Request) -> None:
    """What the request leaves on the call it got, besides waiting."""
    if request.shared:
        ledger.execute("INSERT OR IGNORE INTO holders (call, caller) VALUES (?, ?)", (n, request.caller or NOBODY))
    if request.idempotency_key is not None and request.caller is not None:
        ledger.execute(
            "INSERT OR IGNORE INTO idempotency (caller, key, call) VALUES (?, ?, ?)",
            (request.caller, request.idempotency_key, n),
        )


# --- an existing one ------------------------------------------------------------------------------


def find(ledger: Ledger, request: Request, at: float) -> tuple[int, Accepted] | None:
    """The call that the request gets if there is one for it; of two wishes to adopt the second finds none."""
    if request.resumes is not None:
        return _resumed(ledger, request, request.resumes)
    return (
        _by_idempotency_key(ledger, request)
        or _own_orphan(ledger, request, at)
        or _by_key(ledger, request, at)
        or _identical(ledger, request)
        or _by_place(ledger, request)
    )


def _resumed(ledger: Ledger, request: Request, call_id: str) -> tuple[int, Accepted]:
    """The call that a state or an id was given out for; another's is not found."""
    row = ledger.row("SELECT n, caller, shared FROM calls WHERE id = ? AND function = ?", (call_id, request.function))
    if row is None:
        raise CallNotFound(call_id)
    n, caller, shared = row
    if not shared and caller is not None and caller != request.caller:
        raise CallNotFound(call_id)
    return n, Accepted(call_id, "attached")


def _by_idempotency_key(ledger: Ledger, request: Request) -> tuple[int, Accepted] | None:
    if request.idempotency_key is None or request.caller is None:
        return None
    found = ledger.row(BY_IDEMPOTENCY_KEY, (request.caller, request.idempotency_key))
    if found is None:
        return None
    n, call_id, function, digest = found
    if (function, digest) != (request.function, request.digest):
        raise Conflict(request.tool, request.idempotency_key, "idempotency key")
    return n, Accepted(call_id, "attached")


def _own_orphan(ledger: Ledger, request: Request, at: float) -> tuple[int, Accepted] | None:
    if request.waiting is None or request.caller is None:
        return None
    since = at - request.adopt_within.total_seconds()
    orphan: tuple[Value, ...] = (request.caller, request.function, request.digest, since)
    if request.idempotency_key is None:
        found = ledger.row(ORPHAN.format(""), orphan)
    else:
        found = ledger.row(ORPHAN.format(OF_NO_OTHER_KEY), (*orphan, request.caller, request.idempotency_key))
    return None if found is None else (found[0], Accepted(found[1], "adopted"))


def _by_key(ledger: Ledger, request: Request, at: float) -> tuple[int, Accepted] | None:
    key = held_key(request)
    found = None if key is None else ledger.row(HOLDER, (key,))
    if found is None:
        return None
    n, call_id, digest, status, ended, reuse = found
    if is_reuse_over(status, ended, reuse, at):
        ledger.execute("UPDATE calls SET holds = NULL WHERE n = ?", (n,))
        return None
    if digest != request.digest:
        raise Conflict(request.tool, request.key or "")
    return n, Accepted(call_id, "attached")


def _identical(ledger: Ledger, request: Request) -> tuple[int, Accepted] | None:
    if not request.attach_identical or request.caller is None:
        return None
    found = ledger.row(IDENTICAL, (request.caller, request.function, request.digest))
    return None if found is None else (found[0], Accepted(found[1], "attached"))


def _by_place(ledger: Ledger, request: Request) -> tuple[int, Accepted] | None:
    """A child's id is derived from its place in its parent, where there is but one."""
    if request.call_id is None:
        return None
    found = ledger.row("SELECT n, id FROM calls WHERE id = ?", (request.call_id,))
    return None if found is None else (found[0], Accepted(found[1], "attached"))


# --- keys -----------------------------------------------------------------------------------------


def held_key(request: Request) -> str | None:
    """What the call holds. Nobody's call holds nothing unless it is shared: two nobodies are never equal."""
    if request.key is None or (request.caller is None and not request.shared):
        return None
    return key_of_caller(request.tool, request.key, None if request.shared else request.caller)


def key_of_caller(tool: str, key: str, caller: str | None) -> str:
    """`caller` None: the shared one."""
    return key_of_anybody(tool, key) + ("shared" if caller is None else f"of {caller}")


def key_of_anybody(tool: str, key: str) -> str:
    """What the keys of all callers begin with. Lengths go first: no tool and key reads as another tool and key."""
    return f"{len(tool)}:{tool}{len(key)}:{key} "


def is_reuse_over(status: str, ended: float | None, reuse: float | None, at: float) -> bool:
    """Only of what completed: a key kept by an unknown outcome waits for an operator."""
    return status == "completed" and ended is not None and reuse is not None and at >= ended + reuse


# --- a new one ------------------------------------------------------------------------------------


@dataclass(slots=True)
class New:
    n: int
    call_id: str
    epoch: int
    due: float
    deadline: float | None


def insert(
    ledger: Ledger,
    request: Request,
    call_id: str,
    at: float,
    seed: int,
    python: str,
    owner: int | None,
    retry_of: str | None = None,
) -> New:
    """Without an owner it is due at once, or after `request.after`."""
    arguments = request.arguments
    ledger.check_size(arguments, f"The value of the arguments of {request.tool!r}")
    new = _new(request, call_id, at, seed)
    columns = _columns(request, new, at, seed, python)
    if owner is None:
        columns["wake_at"] = new.due
    else:
        columns["owner"] = owner
        columns["begun"] = 1
    if retry_of is not None:
        columns["retry_of"] = retry_of
    n = ledger.execute(_insert(tuple(columns)), tuple(columns.values())).lastrowid
    assert n is not None
    new.n = n
    if len(arguments) >= LARGE:
        ledger.execute("INSERT INTO large_arguments (call, body) VALUES (?, ?)", (n, arguments))
    bind(ledger, n, request)
    return new


def _new(request: Request, call_id: str, at: float, seed: int) -> New:
    due = at if request.after is None else at + request.after.total_seconds()
    return New(
        n=0,
        call_id=request.call_id or call_id,
        epoch=first_epoch(seed),
        due=due,
        deadline=None if request.deadline is None else due + request.deadline.total_seconds(),
    )


def _columns(request: Request, new: New, at: float, seed: int, python: str) -> dict[str, Value]:
    """What is not NULL, false or as most calls have it: sqlite3 takes longer to bind a None than to bind a text."""
    columns: dict[str, Value] = {
        "id": new.call_id,
        "tool": request.tool,
        "function": request.function,
        "kind": request.kind,
        "status": "running" if new.due <= at else "waiting",
        "epoch": new.epoch,
        "digest": request.digest,
        "retain": request.retain.total_seconds(),
        "created": at,
        "seed": str(seed),
        "python": python,
        "on_disconnect": request.on_disconnect,
    }
    if request.waiting is None:
        columns["handed"] = 1
    else:
        columns["waiting"] = 1
    if request.shared:
        columns["shared"] = 1
    elif request.caller is not None:
        columns["caller"] = request.caller
        if request.principal is not None:
            columns["principal"] = principal_to(request.principal)
    if request.attach_identical:
        columns["identical"] = 1
    if request.key is not None:
        columns["key"] = request.key
        if (holds := held_key(request)) is not None:
            columns["holds"] = holds
    if request.reuse is not None:
        columns["reuse"] = request.reuse.total_seconds()
    if new.due > at:
        columns["delay"] = new.due - at
    if new.deadline is not None:
        columns["deadline"] = new.deadline
    if request.parent is not None:
        columns["parent"] = request.parent.call_id
    if (signals := signals_to(request.signals)) is not None:
        columns["signals"] = signals
    if len(request.arguments) < LARGE:
        columns["arguments"] = request.arguments
    return columns


@cache
def _insert(columns: tuple[str, ...]) -> str:
    """One for each kind of call."""
    return f"INSERT INTO calls ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _held(new: New, start: StartCall) -> Held:
    request = start.request
    caller = None if request.shared else request.caller
    view = CallView(
        id=new.call_id,
        tool=request.tool,
        function=request.function,
        kind=request.kind,
        key=request.key,
        status="running",
        parent=None if request.parent is None else request.parent.call_id,
        callers=frozenset((request.caller or NOBODY,)),
        signals=request.signals,
        version=HEAD_START,
        created=datetime.fromtimestamp(start.at, UTC),
    )
    return Held(
        n=new.n,
        epoch=new.epoch,
        view=view,
        arguments=request.arguments,
        caller=caller,
        principal=None if request.shared else request.principal,
        seed=start.seed,
        python=start.python,
        starts=start.at,
        deadline=new.deadline,
        crashes=0,
        begun=False,
    )
