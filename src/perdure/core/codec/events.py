"""Events as frames: one line of JSON that says what happened, then the payload as it is.

The line begins with the version of the frame: `1["step-returned","0/1","fetch",…]`. Its values are the fields of
the event in their order, so a field can be added at the end, with a default, and nothing else ever changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, cast

from pydantic_core import from_json, to_json

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
from perdure.errors import StorageCorrupt, StorageError

KINDS: dict[str, type[Event]] = {
    "started": Started,
    "resumed": Resumed,
    "step-returned": StepReturned,
    "step-raised": StepRaised,
    "step-late": StepLate,
    "timer-fired": TimerFired,
    "signalled": Signalled,
    "cancel-asked": CancelAsked,
    "child-started": ChildStarted,
    "child-refused": ChildRefused,
    "child-ended": ChildEnded,
    "store-returned": StoreReturned,
    "asked": Asked,
    "answered": Answered,
    "marked": Marked,
    "completed": Completed,
    "failed": Failed,
    "cancelled": Cancelled,
}
"""Names are for ever: they are in every journal."""

_VERSION = b"1"


def encode_event(event: Event) -> bytes:
    return _WRITERS[type(event)](event)


def decode_event(raw: bytes) -> Event:
    """Raises `StorageError` for what a newer perdure wrote, `StorageCorrupt` for what nobody did."""
    if raw[:1] != _VERSION:
        raise _unreadable(raw)
    head, newline, payload = raw.partition(b"\n")
    try:
        values = from_json(head[1:])
        read = _READERS.get(values[0])
        if read is None:
            raise _unreadable(raw)
        if not newline:
            raise ValueError("it is cut off")
        return read(values, payload)
    except (ValueError, TypeError, LookupError) as exc:
        raise StorageCorrupt(f"The journal has an event that cannot be read ({exc}): {raw[:80]!r}") from exc


def _writer(kind: str, cls: type[Event]) -> Callable[[Any], bytes]:
    names, places = _split(cls)
    take = attrgetter(*names) if len(names) > 1 else None
    payload_names = [field.name for field in fields(cls) if field.name not in names]

    def head(event: Any) -> list[Any]:
        return [kind, *take(event)] if take is not None else [kind, getattr(event, names[0])]

    def without_payload(event: Any) -> bytes:
        return b"%b%b\n" % (_VERSION, to_json(head(event)))

    def with_payload(event: Any) -> bytes:
        return b"%b%b\n%b" % (_VERSION, to_json(head(event)), getattr(event, payload_names[0]))

    def with_one_of(event: Any) -> bytes:
        """Whose payload it is, by its place, comes last in the line."""
        for place, name in zip(places, payload_names, strict=True):
            payload = getattr(event, name)
            if payload is not None:
                return b"%b%b\n%b" % (_VERSION, to_json([*head(event), place]), payload)
        return b"%b%b\n" % (_VERSION, to_json([*head(event), None]))

    if not places:
        return without_payload
    return with_one_of if _is_optional(cls) else with_payload


def _reader(cls: type[Event]) -> Callable[[list[Any], bytes], Event]:
    _, places = _split(cls)
    make = cast("Callable[..., Event]", cls)

    def without_payload(values: list[Any], payload: bytes) -> Event:
        return make(*values[1:])

    def with_payload(values: list[Any], payload: bytes) -> Event:
        values.insert(places[0] + 1, payload)
        return make(*values[1:])

    def with_one_of(values: list[Any], payload: bytes) -> Event:
        present = values.pop()
        for place in places:
            values.insert(place + 1, payload if place == present else None)
        return make(*values[1:])

    if not places:
        return without_payload
    return with_one_of if _is_optional(cls) else with_payload


def _split(cls: type[Event]) -> tuple[list[str], list[int]]:
    """The names of the fields that go into the line, and the places of those that are payloads."""
    all_fields = fields(cls)
    names = [field.name for field in all_fields if "bytes" not in str(field.type)]
    return names, [place for place, field in enumerate(all_fields) if field.name not in names]


def _is_optional(cls: type[Event]) -> bool:
    return any(str(field.type) == "bytes | None" for field in fields(cls))


def _unreadable(raw: bytes) -> StorageError:
    if raw[:1].isdigit():
        return StorageError(f"The journal has an event that a newer perdure wrote: {raw[:40]!r}. Upgrade perdure.")
    return StorageCorrupt(f"The journal has an event that is none: {raw[:80]!r}")


_WRITERS = {cls: _writer(kind, cls) for kind, cls in KINDS.items()}
_READERS = {kind: _reader(cls) for kind, cls in KINDS.items()}
