"""The time that an engine lives by: the machine's, or a trial's own."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

LONGEST_NAP = 30.0
"""Seconds after which a long wait looks at the wall clock again: a laptop sleeps, clocks are set."""


class Alarm:
    """A callback that waits for its time; `cancel` it when it is no longer wanted."""

    __slots__ = ("ring", "when")

    def __init__(self, when: float, ring: Callable[[], None]) -> None:
        self.when = when
        self.ring: Callable[[], None] | None = ring

    def cancel(self) -> None:
        self.ring = None


class Clock(Protocol):
    """POSIX seconds that never go back within a process."""

    def now(self) -> float: ...
    def alarm(self, when: float, ring: Callable[[], None]) -> Alarm: ...
    def close(self) -> None: ...


class AlarmQueue:
    """Alarms in the order of their times; equal times in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()

    def add(self, when: float, ring: Callable[[], None]) -> Alarm:
        alarm = Alarm(when, ring)
        heapq.heappush(self._heap, (when, next(self._order), alarm))
        return alarm

    def next_time(self) -> float | None:
        heap = self._heap
        while heap and heap[0][2].ring is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> Alarm | None:
        when = self.next_time()
        return heapq.heappop(self._heap)[2] if when is not None and when <= now else None


class SystemClock:
    """The wall clock, held up by the monotonic one when somebody sets it back. One loop timer, whatever waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = AlarmQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_for = 0.0
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> float:
        wall, monotonic = time.time(), time.monotonic()
        passed = monotonic - self._monotonic
        # Forward jumps (suspend, a clock that is set) count; backward ones do not.
        if wall < self._wall + passed - 0.001:
            wall = self._wall + passed
        self._wall, self._monotonic = wall, monotonic
        return wall

    def alarm(self, when: float, ring: Callable[[], None]) -> Alarm:
        alarm = self._queue.add(when, ring)
        if self._timer is None or when < self._timer_for:
            self._set_timer(when)
        return alarm

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_for = when
        delay = min(max(0.0, when - self.now()), LONGEST_NAP)
        self._timer = self._loop.call_later(delay, self._ring_due)

    def _ring_due(self) -> None:
        self._timer = None
        now = self.now()
        while alarm := self._queue.pop_due(now):
            if alarm.ring is not None:
                alarm.ring()
        when = self._queue.next_time()
        if when is not None and self._timer is None:
            self._set_timer(when)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
