"""Every write and read of the embedded engine, performed over an SQLite connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from perdure.engines.embedded import journal as j
from perdure.engines.embedded.ledger import (
    appending,
    arriving,
    asking,
    continuing,
    reading,
    starting,
    stores,
    waiting,
    working,
)
from perdure.engines.embedded.ledger.ledger import PAYLOAD_LIMIT, Ledger

__all__ = ["BEGINS_CALLS", "PAYLOAD_LIMIT", "Ledger", "answer", "crash_points", "perform"]

T = TypeVar("T")

WRITES: dict[type[j.Write[Any]], Callable[[Ledger, Any], Any]] = {
    j.Append: appending.append,
    j.NoteAttempt: appending.note_attempt,
    j.AppendStore: appending.append_store,
    j.AppendChild: appending.append_child,
    j.AppendJoin: appending.append_join,
    j.AppendQuestion: asking.append_question,
    j.Continue: continuing.continue_call,
    j.MarkStuck: appending.mark_stuck,
    j.Yield: appending.yield_call,
    j.ForgetCrashes: appending.forget_crashes,
    j.StartCall: starting.start_call,
    j.LetGo: waiting.let_go,
    j.Deliver: arriving.deliver,
    j.RetryCall: arriving.retry_call,
    j.ReleaseCall: arriving.release_call,
    j.UseStoreOnce: stores.use_store_once,
    j.Claim: working.claim,
    j.Register: working.register,
    j.Offer: working.offer,
    j.TakeOver: working.take_over,
    j.Leave: working.leave,
    j.RemoveExpired: working.remove_expired,
}

READS: dict[type[j.Read[Any]], Callable[[Ledger, Any], Any]] = {
    j.View: reading.view,
    j.FindCalls: reading.find_calls,
    j.HolderOf: reading.holder_of,
    j.LastHolder: reading.last_holder,
    j.ReadRecord: reading.read_record,
    j.ReadInbox: reading.inbox,
    j.OpenQuestions: asking.open_questions,
    j.LookIntoStore: stores.look_into_store,
    j.Arrived: reading.arrived,
    j.Owned: reading.owned,
    j.NextDue: reading.next_due,
    j.Processes: reading.processes,
    j.NextExpiry: reading.next_expiry,
}

BEGINS_CALLS = frozenset({j.StartCall, j.UseStoreOnce, j.Deliver, j.RetryCall})
"""What somebody outside waits for and can ask again: refused at once while the disk is full, not kept waiting."""


def perform(ledger: Ledger, write: j.Write[T]) -> T:
    """One unit, whole or not at all if its transaction or savepoint is rolled back when it raises."""
    return WRITES[type(write)](ledger, write)


def answer(ledger: Ledger, read: j.Read[T]) -> T:
    return READS[type(read)](ledger, read)


def crash_points() -> frozenset[str]:
    """The names that a journal's `probe` is called with: one for every kind of write."""
    return frozenset(write.__name__ for write in WRITES)
