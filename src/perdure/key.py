"""The key of a call: a template over its validated arguments, or a function of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from string import Formatter
from typing import Any

from perdure.core.codec import recordable

KeyOf = Callable[[Mapping[str, Any]], str]
"""From a call's validated arguments, by name, to its key."""


def key_of(key: str | Callable[..., str], parameters: Collection[str]) -> KeyOf:
    """Make a `key=` ready for calls with these parameters; raises `ValueError` if it wants any other.

    A template is `str.format`'s, with the parameters' names, attributes and indices: `invoice-{invoice.invoice_id}`.
    A function is given those parameters that it names.
    """
    render = _template(key, parameters) if isinstance(key, str) else _function(key, parameters)

    def rendered(arguments: Mapping[str, Any]) -> str:
        found = render(arguments)
        if not found:
            raise ValueError(f"The key {key!r} came out empty.")
        return recordable("A call's key", found)

    return rendered


def _template(template: str, parameters: Collection[str]) -> KeyOf:
    for field in _fields(template):
        name = re.split(r"[.\[]", field, maxsplit=1)[0]
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"The key {template!r} names {name!r}, which is no parameter. There are: {known}.")
        if "__" in field.removeprefix(name):
            raise ValueError(f"The key {template!r} reaches into {field!r}; names with two underscores are refused.")
    return template.format_map


def _fields(template: str) -> Iterator[str]:
    for _, field, spec, _ in Formatter().parse(template):
        if field is not None:
            yield field
            yield from _fields(spec or "")


def _function(function: Callable[..., str], parameters: Collection[str]) -> KeyOf:
    wanted = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in wanted):
        return lambda arguments: function(**arguments)
    unknown = [p.name for p in wanted if p.name not in parameters and p.default is p.empty]
    if unknown:
        raise ValueError(f"The key's function wants {', '.join(unknown)}: no such parameter.")
    names = [p.name for p in wanted if p.name in parameters]
    return lambda arguments: function(**{name: arguments[name] for name in names})
