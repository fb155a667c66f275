"""The digest of arguments: what a replay compares, so that the arguments themselves need not be kept."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from perdure.core.codec.names import name_of

_SPELT = (date, time, timedelta, Decimal, Fraction, UUID, PurePath, complex)


def digest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """16 hex digits that are the same in every process, for every hash seed and every Python.

    The order of a dict or set does not count, a tuple counts as a list, a model by its class and fields; what cannot
    be written (a client, a pool) counts by its type. 64 bits: it is compared with what one caller or one
    place sent before, never looked up among many.
    """
    if not args and not kwargs:
        return _NOTHING
    return _hash(_text((args, kwargs) if kwargs else args))


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _text(value: Any) -> str:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        # Keys that are no text or cannot be sorted; a value within itself.
        return _encode(_spell_out(value, ()))


def _spell(value: Any) -> Any:
    """What is no JSON, as JSON that tells it from others of its kind."""
    kind = cast("type[Any]", type(value))
    if isinstance(value, set | frozenset):
        return {"$set": sorted(map(_text, cast("set[Any]", value)))}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": blake2b(cast("bytes", value), digest_size=8).hexdigest()}
    if isinstance(value, Enum):
        return {"$enum": [name_of(kind), value.name]}
    if isinstance(value, _SPELT):
        return {f"${kind.__name__}": str(value)}
    if isinstance(value, BaseModel):
        return {"$model": [name_of(kind), {name: getattr(value, name, None) for name in type(value).model_fields}]}
    if is_dataclass(value) and kind is not type:
        return {"$model": [name_of(kind), {field.name: getattr(value, field.name, None) for field in fields(value)}]}
    if not isinstance(value, Iterator):  # whose items the step wants
        with suppress(PydanticSerializationError):
            return {f"${kind.__name__}": to_jsonable_python(value)}
    return {"$type": name_of(kind)}


def _spell_out(value: Any, inside: tuple[int, ...]) -> Any:
    """The same by hand, for dicts that JSON cannot have."""
    if id(value) in inside or len(inside) > 100:
        return {"$type": name_of(type(value))}
    inside = (*inside, id(value))
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_spell_out(item, inside) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return {"$dict": sorted([_encode(_spell_out(k, inside)), _encode(_spell_out(v, inside))] for k, v in pairs)}
    return {name: _spell_out(inner, inside) for name, inner in _spell(value).items()}


# Escaped to ASCII, because `repr` follows the Unicode tables, which differ between Pythons.
_encoder = json.JSONEncoder(separators=(",", ":"), sort_keys=True, default=_spell)
# What `json` makes anew for each value. Nothing is remembered: a value within itself ends in a RecursionError.
_make = vars(json.encoder)["c_make_encoder"]
_parts = _make and _make(None, _spell, json.encoder.encode_basestring_ascii, None, ":", ",", True, False, True)
_encode: Callable[[Any], str] = _encoder.encode if _parts is None else lambda value: "".join(_parts(value, 0))
_NOTHING = _hash("")
