"""Python's garbage collector, and what it need not look at.

A full collection looks at every object there is: at all that was imported, which is 40 ms and never garbage. It comes
when a call happens to make the object too many, and the loop stands still for so long.
"""

from __future__ import annotations

import gc
import threading
from types import TracebackType


class Spared:
    """While entered, what was there at the first entry is no matter for the collector of this process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entered = 0
        self._is_ours = False

    def __enter__(self) -> None:
        with self._guard:
            self._entered += 1
            if self._entered == 1 and not gc.get_freeze_count():
                self._is_ours = True
                gc.freeze()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._guard:
            self._entered -= 1
            if not self._entered and self._is_ours:
                self._is_ours = False
                gc.unfreeze()


spared = Spared()
