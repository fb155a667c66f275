"""How the process of a command ends on Ctrl-C: with 130, and without a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_well() -> Generator[None]:
    """Around all of a command, its imports, too, and for as long as the interpreter takes to end."""
    _end_at_once()
    try:
        yield
    finally:
        _end_at_once()


def clean_up_first() -> None:
    """On Ctrl-C, from now on: there is something to clean up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once() -> None:
    # An import may make another error of a KeyboardInterrupt, and the interpreter's own end shows its traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(130)
