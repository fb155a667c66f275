"""Functions that run every so often: one call per tick, over all processes and lives.

A tick has a key, so that whoever asks for its call gets the same one; and its call is there before its time, so that
one which nobody was there to run is made up, once, by whoever comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from perdure.core.call import PYTHON, new_call_id, new_seed
from perdure.engine import Schedule
from perdure.engines.embedded.clock import Alarm, Clock
from perdure.engines.embedded.journal import Journal, LastHolder, StartCall, commit
from perdure.errors import Refused, StorageError

log = logging.getLogger("perdure")

TRY_AGAIN = 1.0
"""Seconds, when the storage could not be written."""


class Schedules:
    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        process: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        look: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._process = process
        self._spawn = spawn
        self._look = look
        self._alarms: dict[str, Alarm] = {}
        self._is_closed = False

    def add(self, function: str, schedule: Schedule) -> None:
        """From its next tick on. Adding it again changes nothing."""
        if function not in self._alarms:
            self._set(function, self._clock.now(), schedule, tick=0)

    def close(self) -> None:
        self._is_closed = True
        for alarm in self._alarms.values():
            alarm.cancel()

    def _set(self, function: str, when: float, schedule: Schedule, tick: int) -> None:
        if not self._is_closed:
            self._alarms[function] = self._clock.alarm(
                when, lambda: self._spawn(self._plan_next(function, schedule, tick))
            )

    async def _plan_next(self, function: str, schedule: Schedule, last: int) -> None:
        """Start the call of the next tick, which waits for its time; when that has come, the one after."""
        now, every = self._clock.now(), schedule.every.total_seconds()
        tick = max(int(now // every), last) + 1
        when = tick * every
        try:
            if not last and await self._is_missing(schedule, tick - 1):
                await self._start(schedule, tick - 1, now)
            await self._start(schedule, tick, now)
        except Exception as error:
            log.log(
                logging.WARNING if isinstance(error, StorageError) else logging.ERROR,
                "the next call of %s cannot be planned now: %s",
                function,
                error,
            )
            self._set(function, self._clock.now() + TRY_AGAIN, schedule, tick - 1)
        else:
            self._look()
            self._set(function, when, schedule, tick)

    async def _is_missing(self, schedule: Schedule, tick: int) -> bool:
        """The process that was to plan it died at the tick before, and there was no other."""
        digits = len(str(tick))
        first, last = _key(schedule, 10 ** (digits - 1)), _key(schedule, 10**digits - 1)
        request = schedule.request
        caller = None if request.shared else request.caller
        newest = await self._journal.read(LastHolder(request.tool, first, last, caller))
        return newest is not None and newest.is_over and (newest.key or "") < _key(schedule, tick)

    async def _start(self, schedule: Schedule, tick: int, now: float) -> None:
        """The one call of a tick, whoever starts it first."""
        wait = tick * schedule.every.total_seconds() - now
        request = replace(schedule.request, key=_key(schedule, tick), after=timedelta(seconds=max(wait, 1e-6)))
        start = StartCall(
            request=request,
            call_id=new_call_id(),
            process=self._process(),
            own=False,
            at=now,
            seed=new_seed(),
            python=PYTHON,
        )
        with suppress(Refused):  # planned by code with other default arguments: that one counts
            await commit(self._journal, start)


def _key(schedule: Schedule, tick: int) -> str:
    return f"every {schedule.every.total_seconds():g} s, tick {tick}"
