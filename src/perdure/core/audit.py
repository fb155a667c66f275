"""Finds the I/O of bodies that does not go through their loop, by an audit hook: for `--dev` and tests.

It costs each audited event of the process some 200 ns, and misses what Python does not audit: the clock, chance,
`print`, what C libraries do on their own; threads up to 3.11, and `time.sleep` up to 3.12.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from perdure.core.frames import is_loop_running, line_of_body
from perdure.core.loop import BodyLoop
from perdure.errors import EffectOutsideStep

# What is named before the first dot of an event, or all of it.
_EFFECTS = frozenset(
    {"open", "time.sleep", "builtins.input", "_thread.start_new_thread", "_thread.start_joinable_thread"}
    | {"os", "fcntl", "glob", "msvcrt", "pathlib", "pty", "shutil", "signal", "sqlite3", "subprocess", "tempfile"}
    | {"ftplib", "http", "imaplib", "nntplib", "poplib", "smtplib", "socket", "syslog", "telnetlib", "urllib"}
    | {"webbrowser", "winreg"}
)

# What reads files to import a module, to write a traceback, to know a time zone; and the ends of others' objects,
# for which the collector comes at any time.
_EXEMPT_MODULES = frozenset(
    {"importlib", "_frozen_importlib", "_frozen_importlib_external", "logging", "linecache", "weakref", "zoneinfo"}
)
_EXEMPT_FUNCTION = "__del__"

_watchers = 0
_is_installed = False


@contextmanager
def watching() -> Generator[None]:
    """As long as somebody watches, a body that does I/O of its own gets EffectOutsideStep where it does it."""
    global _watchers, _is_installed
    if not _is_installed:
        _is_installed = True
        sys.addaudithook(_hear)  # for ever: Python has no way to remove one
    _watchers += 1
    try:
        yield
    finally:
        _watchers -= 1


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    loop = asyncio._get_running_loop()
    # A body runs in this thread now: only then is its loop the running one.
    if type(loop) is BodyLoop and _is_effect(event) and not _is_exempt(sys._getframe(1)):  # pyright: ignore[reportPrivateUsage]  # there is no other way to one's caller
        raise EffectOutsideStep(f"{event}({args[0]!r})" if args else event, loop.call_id, line_of_body())


@cache
def _is_effect(event: str) -> bool:
    return event in _EFFECTS or event.partition(".")[0] in _EFFECTS


def _is_exempt(frame: FrameType | None) -> bool:
    while frame is not None and not is_loop_running(frame):
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module in _EXEMPT_MODULES or frame.f_code.co_name == _EXEMPT_FUNCTION:
            return True
        frame = frame.f_back
    return False
