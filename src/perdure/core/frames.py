"""Which line of a body it was that did what a body may not do."""

from __future__ import annotations

import asyncio
import os
import sys
from types import CodeType, FrameType
from typing import Any

_LOOP = os.path.join(os.path.dirname(__file__), "loop.py")
_PERDURE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_SERVERS = os.path.join(_PERDURE, "servers") + os.sep
"""The bodies that ship are bodies like any other."""
_STDLIB = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def line_of_body() -> str:
    """`file:line` of the innermost frame that is no library's, or of the innermost library's where all are.

    Who started this task is not on its stack: the lines where the tasks above it wait come after its own.
    """
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # there is no other way to one's caller
    stack: list[FrameType] = []  # the innermost first
    while frame is not None and not is_loop_running(frame):
        stack.append(frame)
        frame = frame.f_back
    task = asyncio.current_task()
    stack += _of_starters(task)
    lines = [(frame.f_code.co_filename, frame.f_lineno) for frame in stack if not _is_machinery(frame)]
    own = [line for line in lines if not _is_package(line[0])]
    return next((f"{file}:{number}" for file, number in own or lines), _line_of_coroutine(task))


def _of_starters(task: Any) -> list[FrameType]:
    frames: list[FrameType] = []
    while (task := getattr(task, "starter", None)) is not None:
        frames += _waiting(task.get_coro())
    return frames


def _waiting(coroutine: Any) -> list[FrameType]:
    frames: list[FrameType] = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = coroutine.cr_await
    return frames[::-1]


def _line_of_coroutine(task: asyncio.Task[Any] | None) -> str:
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
