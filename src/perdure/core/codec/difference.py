"""Whether what comes back from the journal is what went in: equal, and of the same kinds all the way down."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from datetime import datetime, time
from decimal import Decimal
from functools import lru_cache
from math import isnan
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

_SIMPLE = frozenset({str, int, bool, float, bytes, type(None)})
_MISSING = object()


class Difference(NamedTuple):
    """The first one: its place, to follow a name (`[2].x`), and what it is."""

    place: str
    what: str

    def inside(self, place: str) -> Difference:
        return Difference(f"{place}{self.place}", self.what)


def difference(went_in: Any, came_back: Any) -> Difference | None:
    """None if nothing changed. An int that came back as an equal float has not: `-> float` may return 1."""
    kind = cast("type[Any]", type(went_in))
    if kind is not type(came_back):
        if kind is int and type(came_back) is float and went_in == came_back:
            return None
        return Difference("", f"{_a(went_in)} would come back as {_a(came_back)}")
    if kind not in _SIMPLE:
        if names := _attributes(kind):
            return _in_attributes(went_in, came_back, names)
        if isinstance(went_in, list | tuple):
            return _in_items(cast("list[Any]", went_in), came_back)
        if isinstance(went_in, dict):
            return _in_dict(cast("dict[Any, Any]", went_in), came_back)
        if isinstance(went_in, set | frozenset):
            return _in_members(cast("frozenset[Any]", went_in), came_back)
    if _are_same(went_in, came_back):
        return None
    return Difference("", f"{_short(went_in)} would come back as {_short(came_back)}")


def _are_same(went_in: Any, came_back: Any) -> bool:
    if isinstance(went_in, float):
        return went_in == came_back or (isnan(went_in) and isnan(came_back))
    if isinstance(went_in, datetime | time):
        # Not by ==, which is false between time zones in the hour that a clock repeats.
        return (went_in.replace(tzinfo=None), went_in.utcoffset()) == (
            came_back.replace(tzinfo=None),
            came_back.utcoffset(),
        )
    if isinstance(went_in, Decimal):
        return str(went_in) == str(came_back)
    return went_in == came_back


def _in_items(went_in: list[Any], came_back: list[Any]) -> Difference | None:
    if len(went_in) != len(came_back):
        return Difference("", f"{len(went_in)} items would come back as {len(came_back)}")
    for index, (before, after) in enumerate(zip(went_in, came_back, strict=True)):
        if (found := difference(before, after)) is not None:
            return found.inside(f"[{index}]")
    return None


def _in_dict(went_in: dict[Any, Any], came_back: dict[Any, Any]) -> Difference | None:
    if (found := _in_members(went_in.keys(), came_back.keys())) is not None:
        return found
    for key, before in went_in.items():
        if (found := difference(before, came_back[key])) is not None:
            return found.inside(f"[{_short(key)}]")
    return None


def _in_members(went_in: Collection[Any], came_back: Collection[Any]) -> Difference | None:
    """Of a set, or the keys of a dict: 1, True and the member 1 of an enum are equal and not the same."""
    kept = {member: member for member in came_back}
    for member in went_in:
        if member not in kept:
            return Difference("", f"{_short(member)} in it would not come back")
        if (found := difference(member, kept[member])) is not None:
            return found
    if len(went_in) != len(kept):
        return Difference("", f"{len(went_in)} members would come back as {len(kept)}")
    return None


@lru_cache(maxsize=4096)
def _attributes(kind: type[Any]) -> tuple[str, ...]:
    """What a model or dataclass is made of."""
    if issubclass(kind, BaseModel):
        return (*kind.model_fields, "__pydantic_extra__", "__pydantic_private__")
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _in_attributes(went_in: Any, came_back: Any, names: tuple[str, ...]) -> Difference | None:
    for name in names:
        found = difference(getattr(went_in, name, _MISSING), getattr(came_back, name, _MISSING))
        if found is not None:
            return found.inside(f".{name}")
    return None


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return _a(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _a(value: object) -> str:
    if value is None or value is _MISSING:
        return "nothing"
    name = type(value).__qualname__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
