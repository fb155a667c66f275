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

FEW = 100
"""Cancelled alarms that are not worth a tidying."""


class Alarm:
    """A callback that waits for its time; `cancel` it when it is no longer wanted."""

    __slots__ = ("_queue", "ring", "when")

    def __init__(self, when: float, ring: Callable[[], None], queue: AlarmQueue) -> None:
        self.when = when
        self.ring: Callable[[], None] | None = ring
        self._queue: AlarmQueue | None = queue

    def cancel(self) -> None:
        self.ring = None
        if self._queue is not None:
            self._queue.one_cancelled()
            self._queue = None

    def taken(self) -> None:
        """Out of the queue: what becomes of it is no matter there."""
        self._queue = None


class Clock(Protocol):
    """POSIX seconds that never go back within a process."""

    def now(self) -> float: ...
    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm: ...
    def close(self) -> None: ...


class AlarmQueue:
    """Alarms in the order of their times; equal times in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._cancelled = 0

    def add(self, when: float, ring: Callable[[], None]) -> Alarm:
        alarm = Alarm(when, ring, self)
        heapq.heappush(self._heap, (when, next(self._order), alarm))
        return alarm

    def next_time(self) -> float | None:
        heap = self._heap
        while heap and heap[0][2].ring is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> Alarm | None:
        when = self.next_time()
        if when is None or when > now:
            return None
        alarm = heapq.heappop(self._heap)[2]
        alarm.taken()
        return alarm

    def one_cancelled(self) -> None:
        """Most deadlines are cancelled long before their time: they must not pile up until then."""
        self._cancelled += 1
        if self._cancelled > FEW and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].ring is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)


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
        wall, monotonic, before = time.time(), time.monotonic(), self._wall
        # Forward jumps (suspend, a clock that is set) count; backward ones do not.
        least = before + monotonic - self._monotonic
        if wall < least - 0.001:
            wall = least
        elif wall < before:
            wall = before
        self._wall, self._monotonic = wall, monotonic
        return wall

    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm:
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
        try:
            while alarm := self._queue.pop_due(now):
                if alarm.ring is not None:
                    alarm.ring()
        finally:  # one that raises does not silence the others
            when = self._queue.next_time()
            # What rang may have set a later alarm, and the timer with it.
            if when is not None and (self._timer is None or when < self._timer_for):
                self._set_timer(when)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
