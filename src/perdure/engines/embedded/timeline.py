"""What happened to a call, for people: its record as lines in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from perdure.core.codec import describe_error
from perdure.core.events import (
    Answered,
    Asked,
    CancelAsked,
    Cancelled,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    Completed,
    Event,
    Failed,
    Marked,
    Resumed,
    Signalled,
    Started,
    StepLate,
    StepRaised,
    StepReturned,
    StoreReturned,
    TimerFired,
)
from perdure.engine import TimelineEntry
from perdure.engines.embedded.journal import Attempt, Record
from perdure.engines.embedded.moment import moment


def timeline(record: Record, wakes: datetime | None = None) -> list[TimelineEntry]:
    """What happened, then the steps that have no outcome yet, when it goes on, what waits in the inbox.

    A signal is recorded where the body reads it, and may have come long before: events are sorted by when they were.
    `wakes`: when a call in memory goes on by itself; of the others their row knows.
    """
    attempts = {attempt.key: attempt for attempt in record.attempts}
    entries = sorted((_line(event, attempts) for event in record.events), key=lambda entry: entry.at)
    settled = {event.key for event in record.events if isinstance(event, StepReturned | StepRaised | StepLate)}
    if not record.view.is_over:
        entries += (_pending(attempt) for attempt in record.attempts if attempt.key not in settled)
        entries += _asleep(record, wakes or record.view.wakes)
    entries += _unread(record)
    return entries


def _line(event: Event, attempts: dict[str, Attempt]) -> TimelineEntry:
    at = moment(event.at)
    match event:
        case Started():
            return TimelineEntry(at, "started", f"on Python {event.python}")
        case Resumed():
            return TimelineEntry(at, "resumed", "")
        case StepReturned():
            error = _errors(attempts.get(event.key)) if event.attempts > 1 else None
            return TimelineEntry(at, "step", event.name, event.attempts, moment(event.began), at, error)
        case StepRaised():
            error = describe_error(event.error)
            return TimelineEntry(at, "step failed", event.name, event.attempts, moment(event.began), at, error)
        case StepLate():
            error = None if event.error is None else describe_error(event.error)
            return TimelineEntry(at, "step too late", event.name, event.attempts, moment(event.began), at, error)
        case TimerFired():
            return TimelineEntry(at, "timer", event.key)
        case Signalled():
            return TimelineEntry(at, "signal", event.name)
        case CancelAsked():
            return TimelineEntry(at, "cancel asked", event.reason)
        case ChildStarted():
            return TimelineEntry(at, "child", f"{event.name} {event.call_id}")
        case ChildRefused():
            return TimelineEntry(at, "child refused", event.name, error=describe_error(event.error))
        case ChildEnded():
            error = None if event.error is None else describe_error(event.error)
            return TimelineEntry(at, "child ended", event.call_id, error=error)
        case Asked():
            error = None if event.error is None else describe_error(event.error)
            return TimelineEntry(
                at, "asked" if error is None else "not asked", event.question or event.name, error=error
            )
        case Answered():
            return TimelineEntry(at, "answered", event.question)
        case StoreReturned():
            return TimelineEntry(at, "store", event.name)
        case Marked():
            return TimelineEntry(at, "patched", event.change)
        case Completed():
            return TimelineEntry(at, "completed", "")
        case Failed():
            return TimelineEntry(at, "failed", "", error=describe_error(event.error))
        case Cancelled():
            return TimelineEntry(at, "cancelled", event.reason)


def _pending(attempt: Attempt) -> TimelineEntry:
    return TimelineEntry(
        moment(attempt.last_began),
        "step tried" if attempt.ended else "step begun",
        attempt.name,
        attempt.count,
        began=moment(attempt.first_began),
        error=_errors(attempt),
        next_attempt=None if attempt.next_at is None else moment(attempt.next_at),
    )


def _asleep(record: Record, wakes: datetime | None) -> Iterator[TimelineEntry]:
    """The timer that is next. What is next may also be an attempt, which has its own line, or the very beginning."""
    others = [attempt.next_at for attempt in record.attempts] + [record.events[0].at]
    if wakes is not None and not any(at is not None and moment(at) == wakes for at in others):
        is_deadline = record.deadline is not None and moment(record.deadline) == wakes
        yield TimelineEntry(
            record.view.updated or moment(record.events[-1].at),
            "deadline at" if is_deadline else "sleeps until",
            f"{wakes:%Y-%m-%d %H:%M:%S} UTC",
        )


def _unread(record: Record) -> Iterator[TimelineEntry]:
    for row in record.inbox:
        match row.event:
            case Signalled():
                yield TimelineEntry(moment(row.event.at), "signal (unread)", row.event.name)
            case CancelAsked():
                yield TimelineEntry(moment(row.event.at), "cancel (unread)", row.event.reason)
            case Answered():
                yield TimelineEntry(moment(row.event.at), "answer (unread)", row.event.question)
            case _:
                pass


def _errors(attempt: Attempt | None) -> str | None:
    """What the last attempt that failed came to, and the first where that was something else."""
    if attempt is None or attempt.first_error in (None, attempt.last_error):
        return None if attempt is None else attempt.last_error
    return f"{attempt.last_error} (at first: {attempt.first_error})"
