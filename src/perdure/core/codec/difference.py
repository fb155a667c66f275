"""Whether what comes back from the journal is what went in: equal, and of the same kinds all the way down."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from datetime import datetime, time
from math import isnan
from typing import Any, cast

from pydantic import BaseModel

ATOMS = frozenset({str, int, bool, type(None), bytes})
_MISSING = object()


def difference(went_in: Any, came_back: Any) -> str | None:
    """None if nothing changed; else the place of the first change and what it is, to follow a name (`[2].x: …`)."""
    kind = cast("type[Any]", type(went_in))
    if kind is not type(came_back):
        if kind is int and type(came_back) is float and went_in == came_back:
            return None  # an int is a float to the type system, so `-> float` may well return 1
        return f": {_a(kind)} would come back as {_a(cast('type[Any]', type(came_back)))}"
    if kind in ATOMS:
        return None if went_in == came_back else _changed(went_in, came_back)
    if kind is float:
        return None if went_in == came_back or (isnan(went_in) and isnan(came_back)) else _changed(went_in, came_back)
    if isinstance(went_in, list | tuple):
        return _in_sequence(cast("list[Any]", went_in), came_back)
    if isinstance(went_in, dict):
        return _in_mapping(cast("dict[Any, Any]", went_in), came_back)
    if isinstance(went_in, set | frozenset):
        return _in_members(cast("frozenset[Any]", went_in), came_back)
    if isinstance(went_in, BaseModel):
        return _in_model(went_in, came_back)
    if is_dataclass(went_in):
        return _in_attributes(went_in, came_back, [field.name for field in fields(went_in)])
    if isinstance(went_in, datetime | time):
        return _in_time(went_in, came_back)
    return None if went_in == came_back else _changed(went_in, came_back)


def _in_sequence(went_in: list[Any], came_back: list[Any]) -> str | None:
    if len(went_in) != len(came_back):
        return _changed(went_in, came_back)
    for index, (before, after) in enumerate(zip(went_in, came_back, strict=True)):
        if (found := difference(before, after)) is not None:
            return f"[{index}]{found}"
    return None


def _in_mapping(went_in: dict[Any, Any], came_back: dict[Any, Any]) -> str | None:
    if (found := _in_members(went_in.keys(), came_back.keys())) is not None:
        return found
    for key, before in went_in.items():
        if (found := difference(before, came_back[key])) is not None:
            return f"[{key!r}]{found}"
    return None


def _in_members(went_in: Collection[Any], came_back: Collection[Any]) -> str | None:
    """Of a set or of keys: equal members are looked up, because 1, True and an enum's 1 are equal."""
    kept = {member: member for member in came_back}
    for member in went_in:
        if (found := difference(member, kept.get(member, _MISSING))) is not None:
            return f" {_short(member)}{found}" if member in kept else f": {_short(member)} would not come back"
    return None if len(went_in) == len(kept) else ": more would come back"


def _in_model(went_in: BaseModel, came_back: BaseModel) -> str | None:
    found = _in_attributes(went_in, came_back, type(went_in).model_fields)
    return found or difference(
        [went_in.model_extra, went_in.__pydantic_private__], [came_back.model_extra, came_back.__pydantic_private__]
    )


def _in_attributes(went_in: Any, came_back: Any, names: Collection[str]) -> str | None:
    for name in names:
        found = difference(getattr(went_in, name, _MISSING), getattr(came_back, name, _MISSING))
        if found is not None:
            return f".{name}{found}"
    return None


def _in_time(went_in: Any, came_back: Any) -> str | None:
    """By offset and wall time: `==` is false between zones in the hour that a clock repeats."""
    same = went_in.utcoffset() == came_back.utcoffset() and went_in.replace(tzinfo=None) == came_back.replace(
        tzinfo=None
    )
    return None if same else _changed(went_in, came_back)


def _changed(went_in: object, came_back: object) -> str:
    return f": {_short(went_in)} would come back as {_short(came_back)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _a(kind: type) -> str:
    return "nothing" if kind is object else f"{'an' if kind.__name__[:1] in 'aeiouAEIOU' else 'a'} {kind.__qualname__}"
