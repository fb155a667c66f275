"""Finds the body that keeps the event loop's thread to itself, and logs where it is."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from traceback import StackSummary, walk_stack

log = logging.getLogger("perdure")

LIMIT = 0.1
"""Seconds. A body that computes for so long delays every other call and request of its process."""

PERIOD = 0.05
"""Seconds between two looks while bodies run."""

IDLE_LOOKS = 20
"""After so many looks at nothing none is taken until a body runs again: an idle process uses no CPU."""


class Watchdog:
    """Watches the bodies of one event loop, from a thread that all watchdogs of the process share.

    `entered` and `left` surround each feed, and cost two attributes and a look at the clock.
    """

    __slots__ = ("_hold", "_idle_looks", "_is_watched", "_logged", "_loop_thread")

    def __init__(self) -> None:
        self._hold: tuple[str, float] | None = None
        self._logged: tuple[str, float] | None = None
        self._idle_looks = 0
        self._is_watched = False
        self._loop_thread = 0

    def entered(self, call_id: str) -> None:
        """From now on the calling thread belongs to the body of this call."""
        self._hold = (call_id, time.monotonic())
        if not self._is_watched:
            self._loop_thread = threading.get_ident()
            self._is_watched = True
            _sampler.add(self)

    def left(self) -> None:
        self._hold = None

    def look(self) -> float:
        """In the sampler's thread: log a hold that has reached the limit, once. In how many seconds to look again."""
        hold = self._hold
        if hold is None:
            self._look_at_nothing()
            return PERIOD
        self._idle_looks = 0
        remaining = hold[1] + LIMIT - time.monotonic()
        if remaining > 0:
            return min(remaining, PERIOD)
        if hold is not self._logged:
            self._logged = hold
            self._log(hold)
        return PERIOD

    def _look_at_nothing(self) -> None:
        self._idle_looks += 1
        if self._idle_looks < IDLE_LOOKS:
            return
        self._idle_looks = 0
        _sampler.remove(self)
        self._is_watched = False
        if self._hold is not None:  # entered just before that line, believing itself watched
            self._is_watched = True
            _sampler.add(self)

    def _log(self, hold: tuple[str, float]) -> None:
        call_id, since = hold
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage] - documented
        stack = StackSummary.extract(walk_stack(frame) if frame else (), lookup_lines=False)
        stack.reverse()
        where = "".join(stack.format()) if self._hold is hold else "  (it was over before its stack could be taken)"
        log.warning(
            "The body of call %s has held the event loop for %.0f ms, and everything else waits. "
            "Move what takes so long into a step.\n%s",
            call_id,
            (time.monotonic() - since) * 1000,
            where,
        )


class _Sampler:
    """The one thread of the process that looks; a forked child starts its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._guard = threading.Lock()
        self._wanted = threading.Event()
        self._watched: set[Watchdog] = set()
        self._thread: threading.Thread | None = None

    def add(self, watchdog: Watchdog) -> None:
        with self._guard:
            self._watched.add(watchdog)
            if self._thread is None:
                self._thread = threading.Thread(target=self._sample, name="perdure-watchdog", daemon=True)
                self._thread.start()
        self._wanted.set()

    def remove(self, watchdog: Watchdog) -> None:
        with self._guard:
            self._watched.discard(watchdog)

    def _sample(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            while watched := self._now_watched():
                time.sleep(min(watchdog.look() for watchdog in watched))

    def _now_watched(self) -> tuple[Watchdog, ...]:
        with self._guard:
            return tuple(self._watched)


_sampler = _Sampler()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_sampler.forget)
