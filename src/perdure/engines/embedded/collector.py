"""Python's garbage collector, and what it need not look at.

A full collection looks at every object there is: at all that was imported, which is 40 ms and never garbage. It comes
when a call happens to make the object too many, and the loop stands still for so long. And of the hundreds of objects
that a call makes, references free all in the end: to look for cycles among those in use is in vain.
"""

from __future__ import annotations

import gc
import threading
from types import TracebackType

SELDOM = 10_000
"""Objects made and not yet freed after which young ones are looked at, where the program has left that to Python."""

FEW = 1_000
"""Frozen objects. Python 3.12 begins with some hundreds of its own; a program that froze has thousands."""

PYTHONS = (700, 2000)
"""What it is by default, from 3.14 on the latter."""


class Spared:
    """While entered, what was there at the first entry is no matter for the collector of this process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entered = 0
        self._frozen = 0
        self._threshold: tuple[int, int, int] | None = None

    def __enter__(self) -> None:
        with self._guard:
            self._entered += 1
            if self._entered == 1:
                self._begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._guard:
            self._entered -= 1
            if not self._entered:
                self._end()

    def _begin(self) -> None:
        self._frozen = 0
        if gc.get_freeze_count() < FEW:
            gc.freeze()
            self._frozen = gc.get_freeze_count()
        threshold = gc.get_threshold()
        if threshold[0] in PYTHONS:
            self._threshold = threshold
            gc.set_threshold(SELDOM, *threshold[1:])

    def _end(self) -> None:
        """Undo it, but for what the program has set or frozen since."""
        if self._frozen and gc.get_freeze_count() <= self._frozen:
            gc.unfreeze()
        if self._threshold is not None and gc.get_threshold()[0] == SELDOM:
            gc.set_threshold(*self._threshold)
        self._threshold = None


spared = Spared()
