"""Values without an annotation: JSON, and beyond it the few types whose name is recorded with them.

A tagged value is an object with one key, `{"$datetime": "…"}`; a dict that looks like one is tagged itself.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure.core.codec.annotated import DEPTH, AnnotatedCodec, is_plain
from perdure.core.codec.difference import difference
from perdure.core.codec.names import class_named, lasting_name
from perdure.errors import Diverged, NotRecordable

_ADVICE = "Annotate what the function returns, and it goes through the annotation."

# By exact type: what is derived from these would come back without what it adds.
_TAGS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("$bytes", lambda value: b64encode(value).decode()),
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
    type(Path()): ("$path", str),
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": b64decode,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda parts: timedelta(*parts),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$path": Path,
    "$dict": lambda pairs: {key: untag(item) for key, item in pairs},
    "$model": lambda pair: _of_class(class_named(pair[0], object)).decode(to_json(pair[1], inf_nan_mode="constants")),
}


class TaggedCodec:
    """Values that say themselves what they are; all others raise `NotRecordable`."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def encode(self, value: Any) -> bytes:
        try:
            if is_plain(value) and b'{"$' not in (raw := to_json(value, inf_nan_mode="constants")):
                return raw
            raw = to_json(tag(value), inf_nan_mode="constants")
            change = difference(value, self.decode(raw))
        except NotRecordable as exc:
            raise NotRecordable(f"{self.what}: {exc.what}", exc.why) from exc
        except (PydanticSerializationError, RecursionError) as exc:
            raise NotRecordable(self.what, str(exc)) from exc
        except Diverged as exc:
            raise NotRecordable(self.what, f"it would not be read back: {exc.asked}") from exc
        if change is not None:
            raise NotRecordable(f"{self.what}{change.place}", f"{change.what}. {_ADVICE}")
        return raw

    def decode(self, raw: bytes) -> Any:
        """Raises `Diverged`: a class whose name is recorded is gone, or its fields have changed."""
        try:
            value = from_json(raw)
            return untag(value) if b'{"$' in raw else value
        except (LookupError, ValueError, TypeError) as exc:
            raise Diverged(f"{self.what}: {raw[:200].decode(errors='replace')}", str(exc)) from exc

    def accept(self, value: Any) -> Any:
        return value

    def json_schema(self) -> dict[str, Any]:
        return {}


def tag(value: Any, depth: int = DEPTH) -> Any:
    """The value as JSON; raises `NotRecordable` for what would come back as something else."""
    kind = cast("type[Any]", type(value))
    if kind in (str, int, bool, float) or value is None:
        return value
    if depth == 0:
        raise NotRecordable("A value", f"it is nested deeper than {DEPTH} levels.")
    if kind is list:
        return [tag(item, depth - 1) for item in value]
    if kind is dict:
        return _tagged_dict(value, depth - 1)
    if kind in _TAGS:
        name, write = _TAGS[kind]
        return {name: write(value)}
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        return {"$model": [lasting_name(kind), from_json(_of_class(kind).encode(value))]}
    raise NotRecordable(f"A {kind.__qualname__}", _ADVICE)


def untag(node: Any) -> Any:
    if isinstance(node, list):
        return [untag(item) for item in cast("list[Any]", node)]
    if isinstance(node, dict):
        members = cast("dict[str, Any]", node)
        if len(members) == 1:
            [(name, inner)] = members.items()
            if name[:1] == "$":
                return _READERS[name](inner)
        return {key: untag(item) for key, item in members.items()}
    return node


def _tagged_dict(value: dict[Any, Any], depth: int) -> Any:
    for key in value:
        if type(key) is not str:
            raise NotRecordable(f"A dict with the key {key!r}", f"JSON has only text as keys. {_ADVICE}")
    members = {key: tag(item, depth) for key, item in value.items()}
    if len(members) == 1 and next(iter(members))[:1] == "$":
        return {"$dict": [[key, item] for key, item in members.items()]}
    return members


@lru_cache(maxsize=1024)
def _of_class(cls: type[Any]) -> AnnotatedCodec[Any]:
    if not (issubclass(cls, BaseModel) or hasattr(cls, "__dataclass_fields__")):
        raise LookupError(f"{cls.__qualname__} is no model any more")
    return AnnotatedCodec(cls, f"A {cls.__qualname__}")
