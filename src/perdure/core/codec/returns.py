"""What a function says of what it returns, whatever kind of callable it is."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache, partial
from types import CodeType
from typing import Any, ForwardRef, Literal, get_args, get_origin, get_type_hints


def return_annotation(fn: Callable[..., Any]) -> Any:
    """What awaiting or calling it gives: `Signature.empty` if it does not say, `NoneType` if nothing.

    Raises `NameError` where a name in the annotation is not defined (yet).
    """
    function = plain_function(fn)
    declared = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    if declared is inspect.Signature.empty or declared is Any:
        return declared
    annotation = _resolved(declared, inspect.unwrap(function))
    if get_origin(annotation) in (Awaitable, Coroutine) and not inspect.iscoroutinefunction(function):
        return get_args(annotation)[-1]
    return annotation


def awaits(fn: Callable[..., Any]) -> bool:
    """Calling it gives an awaitable: it is `async`, or says that it returns one."""
    function = plain_function(fn)
    if inspect.iscoroutinefunction(function):
        return True
    declared = getattr(function, "__annotations__", {}).get("return")
    if isinstance(declared, str):
        return declared.partition("[")[0].rpartition(".")[2] in ("Awaitable", "Coroutine")
    return get_origin(declared) in (Awaitable, Coroutine)


def plain_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a partial, a method or an object that is called."""
    while isinstance(fn, partial):
        fn = fn.func
    if inspect.isroutine(fn) or isinstance(fn, type):
        return getattr(fn, "__func__", fn)
    return type(fn).__call__


def _resolved(declared: Any, function: Callable[..., Any]) -> Any:
    """Only what it returns: its parameters may name what only type checkers import."""
    known = getattr(function, "__globals__", {})
    if isinstance(declared, str):
        declared = eval(_compiled(declared), known, _enclosed(function))
    if not _has_names(declared):
        return declared

    def returns() -> None: ...

    returns.__annotations__ = {"return": declared}
    return get_type_hints(returns, known, _enclosed(function), include_extras=True)["return"]


@lru_cache(maxsize=1024)
def _compiled(annotation: str) -> CodeType:
    """A closure is made into a step each time its body runs; compiling would be most of that."""
    return compile(annotation, "<annotation>", "eval")


def _has_names(annotation: Any) -> bool:
    """Names in quotes, to be looked up: `list["Later"]`."""
    if get_origin(annotation) is Literal:
        return False
    return annotation is None or isinstance(annotation, str | ForwardRef) or any(map(_has_names, get_args(annotation)))


def _enclosed(function: Callable[..., Any]) -> dict[str, Any]:
    """Names of the functions around it, as far as it uses them: a class that it makes and returns is one of them."""
    code = getattr(function, "__code__", None)
    found: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
