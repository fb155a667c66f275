"""Names by which another process finds the same class or function again: `module:qualname`."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from perdure.errors import NotRecordable

T = TypeVar("T")


def name_of(thing: Any) -> str:
    """The name of a class or function."""
    return f"{import_name(thing.__module__)}:{thing.__qualname__}"


def import_name(module: str) -> str:
    """How others import this module: the program that runs here is no `__main__` to them."""
    return _main_name() if module == "__main__" else module


def class_named(name: str, root: type[T]) -> type[T]:
    """The class of that name, which is a kind of `root`; raises `LookupError` when there is none."""
    module, _, qualname = name.partition(":")
    try:
        found: Any = sys.modules["__main__"] if module == _main_name() else import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise LookupError(f"there is no {name} any more ({exc})") from None
    if not (isinstance(found, type) and issubclass(found, root)):
        raise LookupError(f"{name} is no kind of {root.__name__} any more")
    return found


@lru_cache(maxsize=1024)
def lasting_name(cls: type) -> str:
    """The name of a class that can be found by it; raises `NotRecordable` for a local one."""
    name = name_of(cls)
    try:
        if class_named(name, cls) is cls:
            return name
    except LookupError:
        pass
    raise NotRecordable(f"A {cls.__qualname__}", f"{name} cannot be imported; define it at the top of a module.")


def _main_name() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module, or package.__main__, which is not the package
        return spec.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"
