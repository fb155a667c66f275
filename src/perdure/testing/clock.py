"""A clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import Callable

from perdure.engines.embedded.clock import Alarm, AlarmQueue


class ManualClock:
    def __init__(self, now: float) -> None:
        self._now = now
        self._queue = AlarmQueue()

    def now(self) -> float:
        return self._now

    def alarm(self, when: float, ring: Callable[[], None]) -> Alarm:
        return self._queue.add(when, ring)

    def ring_next(self, until: float) -> bool:
        """Move to the next alarm and let it ring; False when there is none up to `until`, and then it is `until`."""
        when = self._queue.next_time()
        if when is None or when > until:
            self._now = max(self._now, until)
            return False
        self._now = max(self._now, when)
        alarm = self._queue.pop_due(self._now)
        if alarm is not None and alarm.ring is not None:
            alarm.ring()
        return True

    def forget_alarms(self) -> None:
        """Who set them is no more."""
        self._queue = AlarmQueue()

    def close(self) -> None:
        self.forget_alarms()
