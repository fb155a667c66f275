"""What of a journal a body is fed again, and what it is told before."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.core.events import Cancelled, Completed, Event, Failed, Fed, Marked, StepLate
from perdure.core.record import record


@record
class Past:
    markers: list[tuple[str, str]]
    fed: list[Fed]


def past_of(events: Iterable[Event]) -> Past:
    past = Past([], [])
    for event in events:
        match event:
            case Marked():
                past.markers.append((event.key, event.change))
            case StepLate() | Completed() | Failed() | Cancelled():
                pass
            case _:
                past.fed.append(event)
    return past
