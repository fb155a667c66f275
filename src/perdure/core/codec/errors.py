"""Errors, recorded as themselves where they provably survive it, and described where they do not.

An error survives if its class can be found by name, and an instance made without calling its `__init__`, with
the same arguments and attributes, has the same text. That is tried when it is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, cast

from perdure.core.codec.difference import difference
from perdure.core.codec.names import class_named, lasting_name, name_of
from perdure.core.codec.tagged import tag, untag
from perdure.core.retry import TryAgain
from perdure.errors import PerdureError, StepFailed

Record = dict[str, Any]


def encode_error(error: BaseException) -> bytes:
    """The error as itself if it survives, else its type and text."""
    return _to_bytes(_recorded(error, _described))


def encode_step_error(error: BaseException, *, step: str, attempts: int) -> bytes:
    """What a body gets for a step that gave up: the error itself if it survives, else `StepFailed`."""
    return _to_bytes(_recorded(error, lambda lost: _failed_step(lost, step, attempts), step=step, attempts=attempts))


def decode_error(raw: bytes) -> Exception:
    """The error; where its class is gone, what `encode_error` or `encode_step_error` would have made without it.

    What was only described is a `PerdureError` with the type's name and the text.
    """
    record: Record = json.loads(raw)
    return _restored_or_described(record)


def error_type(raw: bytes) -> str:
    """The name of the error's class."""
    return _short(json.loads(raw))


def error_message(raw: bytes) -> str:
    return json.loads(raw)["message"]


def describe_error(raw: bytes) -> str:
    """`TypeName: message`."""
    return _description(json.loads(raw))


# --- recording ------------------------------------------------------------------------------------


def words_of(error: BaseException) -> str:
    """Its type and text for people, whatever its text is: UTF-8 has no lone surrogates, names of files do."""
    return f"{type(error).__name__}: {_text(error)}".encode("utf-8", "backslashreplace").decode()


def _recorded(error: BaseException, lost: Callable[[BaseException], Record], **origin: Any) -> Record:
    """`origin` is kept beside the error, for the day when its class is gone."""
    if isinstance(error, BaseExceptionGroup):
        return _group(cast("BaseExceptionGroup[BaseException]", error), lost, origin)
    # A StopIteration would end the coroutine that it is raised in; one that asks for another attempt has had its last.
    if not isinstance(error, Exception) or isinstance(error, StopIteration | StopAsyncIteration | TryAgain):
        return lost(error)
    try:
        record: Record = {
            "type": lasting_name(type(error)),
            "message": str(error),
            "args": [tag(arg) for arg in error.args],
            "state": {name: tag(value) for name, value in _state(error).items()},
            **origin,
        }
        return record if _survives(error, record) else lost(error)
    except Exception:  # whatever the class of somebody else does when it is looked at
        return lost(error)


def _survives(error: Exception, record: Record) -> bool:
    restored = _restored(json.loads(json.dumps(record)))
    return type(restored) is type(error) and (
        difference([str(error), error.args, _state(error)], [str(restored), restored.args, _state(restored)]) is None
    )


def _group(group: BaseExceptionGroup[BaseException], lost: Callable[[BaseException], Record], origin: Record) -> Record:
    """Its members each as they can be; a group of a class of its own that does not survive is a plain one."""
    record: Record = {
        "type": "builtins:ExceptionGroup",
        "message": group.message,
        "group": [_recorded(error, lost, **origin) for error in group.exceptions],
        **origin,
    }
    own = {**record, "type": name_of(type(group))}
    return own if isinstance(_restored_or_described(own), type(group)) else record


def _described(error: BaseException) -> Record:
    return {"type": name_of(type(error)), "message": _text(error)}


def _failed_step(error: BaseException, step: str, attempts: int) -> Record:
    return _recorded(StepFailed(step, type(error).__name__, _text(error), attempts), _described)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had)"


def _state(error: BaseException) -> dict[str, Any]:
    """The attributes of an error, its notes included, and what its class keeps outside of `__dict__`."""
    kept = {name: value for name in _members(type(error)) if (value := getattr(error, name, None)) is not None}
    return {**kept, **error.__dict__}


@lru_cache(maxsize=1024)
def _members(cls: type[BaseException]) -> frozenset[str]:
    """Attributes in slots: those of Python classes, and those in C, as an OSError's `filename`."""
    slots = MemberDescriptorType | GetSetDescriptorType
    return frozenset(
        name
        for base in cls.__mro__
        for name, attribute in vars(base).items()
        if isinstance(attribute, slots) and not name.startswith("__") and name != "args"
    )


# --- and back -------------------------------------------------------------------------------------


def _restored_or_described(record: Record) -> Exception:
    if "args" not in record and "group" not in record:
        return PerdureError(_description(record))
    try:
        return _restored(record)
    except Exception as exc:  # the class of somebody else, or none
        error = _without_class(record)
        error.add_note(f"It was recorded as {record['type']}, which cannot be restored: {exc}")
        return error


def _restored(record: Record) -> Exception:
    if "group" in record:
        return _restored_group(record, class_named(record["type"], ExceptionGroup))
    cls = class_named(record["type"], Exception)
    args = [untag(arg) for arg in record["args"]]
    error = cls.__new__(cls, *args)
    error.args = tuple(args)
    members = _members(cls)
    for name, value in record["state"].items():
        if name in members:
            setattr(error, name, untag(value))
        else:
            error.__dict__[name] = untag(value)
    return error


def _restored_group(record: Record, cls: type[ExceptionGroup[Exception]]) -> ExceptionGroup[Exception]:
    return cls.__new__(cls, record["message"], [_restored_or_described(member) for member in record["group"]])


def _without_class(record: Record) -> Exception:
    if "group" in record:
        return _restored_group(record, ExceptionGroup)
    if "step" in record:
        return StepFailed(record["step"], _short(record), record["message"], record["attempts"])
    return PerdureError(_description(record))


def _short(record: Record) -> str:
    return record["type"].rpartition(":")[2].rpartition(".")[2]


def _description(record: Record) -> str:
    return f"{_short(record)}: {record['message']}" if record["message"] else _short(record)


def _to_bytes(record: Record) -> bytes:
    # Escaped to ASCII: the text of an error may hold half a character, as in the names of files.
    return json.dumps(record, separators=(",", ":")).encode()
