"""JSON against the JSON Schema of a signal, for those who do not have its type."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from uuid import UUID

from pydantic import AnyUrl, TypeAdapter, ValidationError
from pydantic_core import from_json

from perdure.errors import Refused

FORMATS: Final[Mapping[str, Any]] = {
    "date-time": datetime,
    "date": date,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uri": AnyUrl,
}
"""Types whose schema is nothing but a format. jsonschema alone checks few: the others take more packages."""


def check_json(what: str, schema: Mapping[str, Any], value: bytes) -> None:
    """Raises `Refused`, with `what` in its words, if the schema does not take the value."""
    from jsonschema import Draft202012Validator  # takes time to import

    validator: Any = Draft202012Validator(schema, format_checker=_formats())
    for error in validator.iter_errors(from_json(value)):
        raise Refused(f"{what} does not take this value: {error.json_path}: {error.message}.")


@cache
def _formats() -> Any:
    """A text has a format if pydantic, which wrote the schema, makes the format's type of it."""
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, kind in FORMATS.items():
        read = TypeAdapter[Any](kind).validate_python

        def fits(value: object, read: Any = read) -> bool:
            return not isinstance(value, str) or read(value) is not None

        checker.checks(name, raises=ValidationError)(fits)
    return checker
