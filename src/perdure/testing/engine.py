"""The engine of a trial: the embedded one, with a journal that can crash and a clock that is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import Context
from datetime import timedelta
from typing import Any

from perdure.engine import Clock
from perdure.engines.embedded.development import Development
from perdure.engines.embedded.journal import Journal
from perdure.engines.embedded.live import LiveCall
from perdure.engines.embedded.worker import Worker
from perdure.testing.clock import ManualClock
from perdure.testing.journal import TrialJournal


class TrialEngine(Development):
    def __init__(self, now: float) -> None:
        # Who leaves a trial waits for nothing: what still runs then is dropped with the journal.
        super().__init__("memory:", grace=timedelta(0))
        self.clock = ManualClock(now)
        self.ledger = TrialJournal(self.clock.now)
        self.make_clock = lambda: self.clock
        self._workers: list[Worker] = []
        self._recovery: asyncio.Task[None] | None = None

    @property
    def request_clock(self) -> Clock:
        return self.clock.of_requests

    def __repr__(self) -> str:
        return "a trial"

    def _journal(self) -> Journal:
        return self.ledger

    # --- crashing ---

    async def crash(self) -> None:
        """Lose what a crash would lose; back when the next life has begun, also if that dies at once."""
        self.begin_recovery()
        while (recovery := self._recovery) is not None and not recovery.done():
            await asyncio.wait({recovery})
        if recovery is not None:
            recovery.result()

    def begin_recovery(self) -> None:
        former = self._recovery
        if former is not None:
            former.cancel()
        self._recovery = asyncio.get_running_loop().create_task(self._recover(former), context=Context())

    @property
    def is_recovering(self) -> bool:
        return self._recovery is not None and not self._recovery.done()

    async def recovered(self) -> None:
        if self._recovery is not None:
            await asyncio.wait({self._recovery})

    async def _recover(self, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await asyncio.wait({former})
        self.note_worker()
        self.clock.forget_alarms()
        await super().crash()
        self.ledger.resume_outside()

    # --- what goes on ---

    def running(self) -> Iterator[LiveCall]:
        """Calls with a step that runs now."""
        worker = self.worker
        return iter(()) if worker is None else (call for call in list(worker.live.values()) if call.steps_running)

    @property
    def replay_differences(self) -> list[str]:
        """What the replay check found in all lives."""
        return [difference for worker in self._workers for difference in worker.replay_differences]

    def note_worker(self) -> None:
        """Before this life ends: it may have found differences."""
        worker: Any = self.worker
        if worker is not None and worker not in self._workers:
            self._workers.append(worker)
