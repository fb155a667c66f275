"""A call goes on with a new journal: what belonged to the old one goes, what belongs to the call stays."""

from __future__ import annotations

from perdure.core.events import CancelAsked, Signalled
from perdure.engines.embedded.journal import Continue, Continued, Fenced
from perdure.engines.embedded.ledger.asking import withdraw_all
from perdure.engines.embedded.ledger.ending import give_up_all
from perdure.engines.embedded.ledger.inbox import put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.loading import inbox_after
from perdure.engines.embedded.ledger.rows import HELD, NEW_LIFE, held_of
from perdure.engines.embedded.ledger.starting import LARGE

BEGIN_ANEW = f"""
    UPDATE calls SET arguments = ?, seq = 0, run = run + 1, seed = ?, python = ?, started = ?, crashes = 0,
        begun = begun + 1, status = 'running', updated = ?, {NEW_LIFE}
    WHERE n = ? AND epoch = ? AND ended IS NULL"""

OF_THE_OLD_JOURNAL = (
    "DELETE FROM events WHERE call = ?",
    "DELETE FROM attempts WHERE call = ?",
    "DELETE FROM large_arguments WHERE call = ?",
    "DELETE FROM inbox WHERE call = ?",
    "DELETE FROM links WHERE parent = ?",
)


def continue_call(ledger: Ledger, write: Continue) -> Continued:
    n, arguments, at = write.n, write.arguments, write.at
    ledger.check_size(arguments, "The value of the arguments to continue with")
    is_large = len(arguments) >= LARGE
    row = (None if is_large else arguments, str(write.seed), write.python, at, at, n, write.epoch)
    if not ledger.execute(BEGIN_ANEW, row).rowcount:
        raise Fenced
    # The outcomes of its children and the answers to its questions were for the old journal.
    came = [each.event for each in inbox_after(ledger, n, 0) if each.row not in write.consumed]
    told = (*withdraw_all(ledger, n), *give_up_all(ledger, n, at))
    for statement in OF_THE_OLD_JOURNAL:
        ledger.execute(statement, (n,))
    if is_large:
        ledger.execute("INSERT INTO large_arguments (call, body) VALUES (?, ?)", (n, arguments))
    for name, value in write.unheard:
        put(ledger, n, Signalled(name, value, at))
    for event in came:
        if isinstance(event, Signalled | CancelAsked):
            put(ledger, n, event)
    held = ledger.row(f"SELECT {HELD} FROM calls WHERE n = ?", (n,))
    assert held is not None
    return Continued(held_of(held, ledger.clock()), told)
