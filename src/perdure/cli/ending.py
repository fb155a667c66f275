"""How the process of a command ends: on Ctrl-C with 130, otherwise when what it said is written. No tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO, cast

CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def ending_well() -> Generator[None]:
    """Around all of a command, its imports, too, and for as long as the interpreter takes to end."""
    _end_at_once()
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in CANNOT_WRITE:
            raise
        _give_up_saying(error)
    finally:
        _end_at_once()
        _write_all()


def clean_up_first() -> None:
    """On Ctrl-C, from now on: there is something to clean up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once() -> None:
    # An import may make another error of a KeyboardInterrupt, and the interpreter's own end shows its traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, _end)


def _write_all() -> None:
    """What is buffered: where that fails in the interpreter's own end, it tells of it and exits with 120."""
    out = cast("TextIO | None", sys.stdout)
    if out is None or out.closed:
        return
    try:
        out.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # it will be tried once more
        _give_up_saying(error)


def _give_up_saying(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        sys.exit(1)  # who reads has what they want
    sys.exit(f"perdure: What it says cannot be written: {error.strerror}.")


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(130)
