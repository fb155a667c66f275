"""A clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from perdure.engines.embedded.clock import Alarm, AlarmQueue

LAST_SIGNS = 60.0
"""Seconds before the end of a leap in which signs of life are given: nobody waits for a day of them."""


class ManualClock:
    def __init__(self, now: float) -> None:
        self._now = now
        self._queue = AlarmQueue()
        self.of_requests = ClockOfRequests(self)

    def now(self) -> float:
        return self._now

    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm:
        return self._queue.add(when, ring)

    def ring_next(self, until: float) -> bool:
        """Move to the next alarm and let it ring; False when there is none up to `until`, and then it is `until`."""
        signs = self.of_requests.signs
        # Of those that are due at once, requests hear first what became of their calls.
        queues = [(self._queue, -inf), (self.of_requests.queue, -inf), (signs, until - LAST_SIGNS)]
        due = [
            (max(when, earliest), place, queue)
            for place, (queue, earliest) in enumerate(queues)
            if (when := queue.next_time()) is not None
        ]
        if not due or min(due)[0] > until:
            self._now = max(self._now, until)
            return False
        when, _, queue = min(due)
        self._now = max(self._now, when)
        alarm = queue.pop_due(self._now)
        if alarm is not None and alarm.ring is not None:
            alarm.ring()
        return True

    def forget_alarms(self) -> None:
        """Who set them is no more; requests go on waiting."""
        self._queue = AlarmQueue()

    def close(self) -> None:
        self.forget_alarms()


class ClockOfRequests:
    """The same time, for those who wait for calls and outlive a crash of what runs them."""

    def __init__(self, clock: ManualClock) -> None:
        self.queue = AlarmQueue()
        self.signs = AlarmQueue()
        self.now = clock.now

    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm:
        return (self.signs if skippable else self.queue).add(when, ring)
