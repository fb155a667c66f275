"""What a name in a function's source means: the object, as far as it can be known without running anything."""

from __future__ import annotations

import ast
import builtins
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

UNKNOWN: Any = object()


class Names:
    """The names that one function sees. What it assigns itself is not known, save what it imports."""

    def __init__(self, fn: Callable[..., Any], node: ast.AST) -> None:
        self._globals: Mapping[str, Any] = getattr(fn, "__globals__", {})
        self._enclosed: Mapping[str, Any] = _enclosed(fn)
        self._imported: dict[str, str] = {}
        self._own: set[str] = set()
        self._written_globals: set[str] = set()
        for each in ast.walk(node):
            self._note(each)
        self._own -= self._written_globals

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    self._imported[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            case ast.ImportFrom(module=str(module), level=0):
                for alias in node.names:
                    self._imported[alias.asname or alias.name] = f"{module}.{alias.name}"
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                self._own.add(name)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                self._own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._own.add(name)
            case ast.Global(names=names):
                self._written_globals.update(names)
            case _:
                pass

    def is_global(self, name: str) -> bool:
        return name not in self._own and name not in self._imported and name in self._globals

    def object_of(self, node: ast.expr) -> Any:
        """`UNKNOWN` for what is the function's own, and for attributes of anything but modules and classes."""
        match node:
            case ast.Name(id=name) if name not in self._own and name not in self._imported:
                scopes: tuple[Mapping[str, Any], ...] = (self._enclosed, self._globals, vars(builtins))
                for scope in scopes:
                    if name in scope:
                        return scope[name]
            case ast.Attribute(value=value, attr=attr):
                owner = self.object_of(value)
                if isinstance(owner, ModuleType | type):
                    return getattr(owner, attr, UNKNOWN)
            case _:
                pass
        return UNKNOWN

    def full_name(self, node: ast.expr) -> str | None:
        """`datetime.datetime.now`, under whatever name it was imported."""
        match node:
            case ast.Name(id=name) if name in self._imported:
                return self._imported[name]
            case ast.Name():
                found = self.object_of(node)
                return None if found is UNKNOWN else _name_of(found)
            case ast.Attribute(value=value, attr=attr):
                owner = self.full_name(value)
                return None if owner is None else f"{owner}.{attr}"
            case _:
                return None


def _enclosed(fn: Callable[..., Any]) -> dict[str, Any]:
    """Names of the functions around it, as far as it uses them."""
    found: dict[str, Any] = {}
    code: Any = getattr(fn, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(fn, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


def _name_of(thing: Any) -> str | None:
    if thing is os.environ:
        return "os.environ"
    if isinstance(thing, ModuleType):
        return {"posixpath": "os.path", "ntpath": "os.path"}.get(thing.__name__, thing.__name__)
    name = getattr(thing, "__qualname__", None)
    module = getattr(thing, "__module__", None)
    owner = getattr(thing, "__self__", None)
    if module is None and owner is not None and not isinstance(owner, ModuleType):
        # A method of a built-in class, or `from random import random`: the module's hidden instance.
        kind: Any = owner if isinstance(owner, type) else type(owner)
        prefix = kind.__module__ if not isinstance(owner, type) else f"{kind.__module__}.{kind.__qualname__}"
        return f"{prefix}.{thing.__name__}"
    if not isinstance(name, str) or not isinstance(module, str):
        return None
    return f"{_PUBLIC.get(module, module)}.{name}"


_PUBLIC = {
    "_io": "io",
    "posix": "os",
    "nt": "os",
    "asyncio.threads": "asyncio",
    "asyncio.tasks": "asyncio",
    "asyncio.streams": "asyncio",
    "asyncio.subprocess": "asyncio",
    "httpx._client": "httpx",
    "httpx._api": "httpx",
    "requests.api": "requests",
    "requests.sessions": "requests",
    "aiohttp.client": "aiohttp",
}
"""Where people import from what is defined elsewhere."""
