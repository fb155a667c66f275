"""Values through an annotation: what pydantic makes of it, proven to come back as it went in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Generic, NewType, TypeVar, Union, cast, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from perdure.core.codec.difference import difference
from perdure.errors import Diverged, NotRecordable

T = TypeVar("T")

DEPTH = 100
"""pydantic's parser gives up at 200 levels."""

# A pydantic model keeps its own: NaN and bytes that are no UTF-8 are refused there, unless it says how to write them.
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


class AnnotatedCodec(Generic[T]):
    """Values of one annotation; `what` they are goes into errors."""

    __slots__ = ("_adapter", "_dump", "_parse", "_plain", "_scalar", "what")

    def __init__(self, annotation: Any, what: str) -> None:
        self.what = what
        try:
            self._adapter, self._plain = _adapter_of(annotation, repr(annotation))
        except _Unfit as exc:
            raise NotRecordable(what, str(exc)) from exc.__cause__
        self._scalar = annotation if annotation in _SCALARS else None
        self._dump = self._adapter.serializer.to_json
        self._parse = self._adapter.validator.validate_json

    def encode(self, value: T) -> bytes:
        if type(value) is self._scalar and is_plain(value):
            return self._dump(value)  # of what fits and has no fields, the options below change nothing
        try:
            raw = self._dump(value, by_alias=False, round_trip=True, warnings="error")
        except (PydanticSerializationError, RecursionError, ValueError) as exc:
            raise NotRecordable(self.what, _why_not_written(exc)) from exc
        if not (self._plain and is_plain(value)):
            self._prove(value, raw)
        return raw

    def decode(self, raw: bytes) -> T:
        """Raises `Diverged`: what is recorded no longer fits the annotation."""
        try:
            return self._parse(raw, by_alias=False, by_name=True)
        except ValidationError as exc:
            recorded = raw[:200].decode(errors="replace")
            raise Diverged(f"{self.what}: {recorded}", _first_error(exc)) from exc

    def accept(self, value: Any) -> T:
        """The value as the annotation's type, if it can be had; raises pydantic's `ValidationError`."""
        return self._adapter.validate_python(value, by_alias=False, by_name=True)

    def json_schema(self) -> dict[str, Any]:
        return self._adapter.json_schema(by_alias=False)

    def _prove(self, value: T, raw: bytes) -> None:
        try:
            returned = self._parse(raw, by_alias=False, by_name=True)
        except ValidationError as exc:
            raise NotRecordable(self.what, f"it would not be read back: {_first_error(exc)}") from exc
        if (change := difference(value, returned)) is not None:
            raise NotRecordable(f"{self.what}{change.place}", f"{change.what}.")


_SCALARS = (int, float, bool)
"""Plain where the value is just that: pydantic also takes a `bool` for an `int`, and gives the `int` back."""


def is_plain(value: object, depth: int = DEPTH) -> bool:
    """JSON as Python has it, with nothing derived from it: what JSON brings back unchanged."""
    kind = type(value)
    if kind is str or kind is bool or kind is float or value is None:
        return True
    if kind is int:
        return -(2**63) <= cast("int", value) < 2**63  # a number of thousands of digits would not be read back
    if depth == 0:
        return False
    if kind is list:
        return all(is_plain(item, depth - 1) for item in cast("list[Any]", value))
    if kind is dict:
        members = cast("dict[Any, Any]", value)
        return all(type(key) is str and is_plain(item, depth - 1) for key, item in members.items())
    return False


class _Unfit(Exception):
    """Why an annotation cannot be recorded, whatever it is of."""


def _adapter_of(annotation: Any, text: str) -> tuple[TypeAdapter[Any], bool]:
    try:
        hash(annotation)
    except TypeError:  # Annotated with something that has none
        return _checked(annotation), _is_json(annotation)
    return _cached_adapter_of(annotation, text)


@lru_cache(maxsize=4096)
def _cached_adapter_of(annotation: Any, text: str) -> tuple[TypeAdapter[Any], bool]:
    # `text` is in the cache's key because `int | str == str | int`, and the order can matter to what is read back.
    return _checked(annotation), _is_json(annotation)


def _checked(annotation: Any) -> TypeAdapter[Any]:
    try:
        # pydantic takes no configuration beside a class, which may have its own; beside a NewType of it, it does.
        adapter = TypeAdapter[Any](cast("Any", NewType)("Recorded", annotation), config=_CONFIG)
        schemas = [adapter.json_schema(mode="serialization"), adapter.json_schema(mode="validation")]
    except PydanticUserError as exc:  # the others that pydantic raises here derive from it
        if exc.code == "class-not-fully-defined":
            raise NameError(_first_line(exc), name=_name(annotation)) from exc
        raise _Unfit(f"{_name(annotation)} has no JSON form ({_first_line(exc)})") from exc
    for node in _nodes(adapter.core_schema):
        if node.get("serialization_exclude") is True or "serialization_exclude_if" in node:
            raise _Unfit(f"{_name(annotation)} has fields that are excluded when it is written.")
        if node.get("type") in ("generator", "is-subclass"):
            raise _Unfit(f"{_name(annotation)} is no data; return a list, or a name.")
    if any(node.get("writeOnly") is True for schema in schemas for node in _nodes(schema)):
        raise _Unfit(f"{_name(annotation)} holds a secret, and a journal keeps none. Keep it in the step.")
    return adapter


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        node = cast("dict[str, Any]", schema)
        yield node
        for key, inner in node.items():
            if key != "metadata":
                yield from _nodes(inner)
    elif isinstance(schema, list | tuple):
        for inner in cast("list[Any]", schema):
            yield from _nodes(inner)


def _is_json(annotation: Any) -> bool:
    """Nothing but text, lists, dicts and `Any`: here pydantic checks the shape, and what is plain comes back."""
    if annotation in (Any, str, None, NoneType, list, dict):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is list:
        return _is_json(args[0])
    if origin is dict:
        return args[0] is str and _is_json(args[1])
    if origin in (Union, UnionType):
        return len(args) == 2 and NoneType in args and all(map(_is_json, args))
    return False


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else repr(annotation)


def _why_not_written(exc: Exception) -> str:
    why = _first_line(exc)
    if "utf-8 sequence" in why:
        return f"{why}. Give the model ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')."
    return why


def _first_line(exc: Exception) -> str:
    """pydantic's own words, without its headline and its links."""
    lines = str(exc).removeprefix("Pydantic serializer warnings:").strip().splitlines()
    return lines[0].strip().removeprefix("PydanticSerializationUnexpectedValue") if lines else type(exc).__name__


def _first_error(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else error["msg"]
