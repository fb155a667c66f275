"""Which line of a body it was that did what a body may not do."""

from __future__ import annotations

import os
import sys
from types import FrameType

_CORE = os.path.dirname(__file__) + os.sep
_LOOP = _CORE + "loop.py"
_STDLIB = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def line_of_body() -> str:
    """`file:line` of the innermost frame that is no library's, or of the innermost library's where all are."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # there is no other way to one's caller
    library = ""
    while frame is not None and not is_loop_running(frame):
        file = frame.f_code.co_filename
        if not file.startswith((_STDLIB, _CORE, "<frozen ")) or _is_package(file):
            line = f"{file}:{frame.f_lineno}"
            if not _is_package(file):
                return line
            library = library or line
        frame = frame.f_back
    return library


def is_loop_running(frame: FrameType) -> bool:
    return frame.f_code.co_filename == _LOOP and frame.f_code.co_name in ("run", "drop")


def _is_package(file: str) -> bool:
    return any(folder in file for folder in _PACKAGES)
