"""Which line of a body it was that did what a body may not do."""

from __future__ import annotations

import asyncio
import os
import sys
from types import CodeType, FrameType

_LOOP = os.path.join(os.path.dirname(__file__), "loop.py")
_PERDURE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_SERVERS = os.path.join(_PERDURE, "servers") + os.sep
"""The bodies that ship are bodies like any other."""
_STDLIB = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def line_of_body() -> str:
    """`file:line` of the innermost frame that is no library's, or of the innermost library's where all are.

    Who started a task is not on its stack: in one that runs only the machinery of tasks, its coroutine is named.
    """
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # there is no other way to one's caller
    library = ""
    while frame is not None and not is_loop_running(frame):
        file = frame.f_code.co_filename
        if not _is_machinery(frame):
            line = f"{file}:{frame.f_lineno}"
            if not _is_package(file):
                return line
            library = library or line
        frame = frame.f_back
    return library or _line_of_task()


def _line_of_task() -> str:
    task = asyncio.current_task()
    coroutine = None if task is None else task.get_coro()
    code: CodeType | None = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
    return "" if code is None or _is_ours(code.co_filename) else f"{code.co_filename}:{code.co_firstlineno}"


def _is_machinery(frame: FrameType) -> bool:
    """It is perdure's, the standard library's or anyio's, which is where a task does what somebody else asked for."""
    file = frame.f_code.co_filename
    if _is_ours(file):
        return True
    if _is_package(file):
        return str(frame.f_globals.get("__name__")).partition(".")[0] == "anyio"
    return file.startswith((_STDLIB, "<frozen "))


def _is_ours(file: str) -> bool:
    return file.startswith(_PERDURE) and not file.startswith(_SERVERS)


def is_loop_running(frame: FrameType) -> bool:
    return frame.f_code.co_filename == _LOOP and frame.f_code.co_name in ("run", "drop")


def _is_package(file: str) -> bool:
    return any(folder in file for folder in _PACKAGES)
