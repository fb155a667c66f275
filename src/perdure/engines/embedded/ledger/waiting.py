"""Which requests wait for which call. One that nobody waits for, and whose last reply was not given, is an orphan."""

from __future__ import annotations

from perdure.engine import QuestionKind
from perdure.engines.embedded.journal import LetGo
from perdure.engines.embedded.ledger.ledger import Ledger

WAIT = "INSERT OR IGNORE INTO waits (request, call, process, asks) VALUES (?, ?, ?, ?)"

LEFT = "UPDATE calls SET waiting = waiting - 1, handed = ? WHERE n = ?"

DIED = """
    UPDATE calls SET waiting = waiting - gone.requests, handed = 0
    FROM (SELECT call, count(*) AS requests FROM waits WHERE process = ? GROUP BY call) AS gone WHERE n = gone.call"""


def wait(ledger: Ledger, request: str, n: int, process: int, asks: frozenset[QuestionKind]) -> None:
    """The call's row counts it already."""
    row = (request, n, process, " ".join(sorted(asks)))
    if not ledger.execute(WAIT, row).rowcount:
        let_go(ledger, LetGo(request, handed=False))
        ledger.execute(WAIT, row)


def let_go(ledger: Ledger, write: LetGo) -> None:
    """The mark is that of the last reply: one that could not be handed makes the call an orphan again."""
    waited = ledger.row("SELECT call FROM waits WHERE request = ?", (write.request,))
    if waited is None:
        _answered_later(ledger, write)
        return
    ledger.execute("DELETE FROM waits WHERE request = ?", (write.request,))
    ledger.execute(LEFT, (write.handed, waited[0]))
    if write.resumable and not write.handed:
        ledger.execute("INSERT OR REPLACE INTO resumable (request, call) VALUES (?, ?)", (write.request, waited[0]))


def _answered_later(ledger: Ledger, write: LetGo) -> None:
    """Its connection was lost, and what went over another one was its answer, or nothing that counts as one."""
    left = ledger.row("SELECT call FROM resumable WHERE request = ?", (write.request,))
    if left is not None:
        ledger.execute("DELETE FROM resumable WHERE request = ?", (write.request,))
        if write.handed:
            ledger.execute("UPDATE calls SET handed = 1 WHERE n = ?", left)


def let_go_of_all(ledger: Ledger, process: int) -> None:
    """Whether the replies of a process that is gone arrived is not known, which counts as not handed."""
    ledger.execute(DIED, (process,))
    ledger.execute("DELETE FROM waits WHERE process = ?", (process,))
