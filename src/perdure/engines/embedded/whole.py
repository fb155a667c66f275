"""A call that is one step: a tool without a journal of its own, whose outcome is recorded."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from perdure.core.call import idempotency_key
from perdure.core.codec import encode_error
from perdure.core.events import CancelAsked, Cancelled, Completed, End, Failed, Fed
from perdure.core.record import changed
from perdure.engine import CallFacts, Function, WholeStep
from perdure.engines.embedded.journal import Attempt, Claimed, Held
from perdure.engines.embedded.live import MOST_CRASHES, LiveCall, dies_again_and_again, keeps_key
from perdure.engines.embedded.steps import Outcome, Returned, StepRun
from perdure.engines.embedded.unit import Unit
from perdure.errors import OutcomeUnknown

if TYPE_CHECKING:
    from perdure.engines.embedded.worker import Worker

PLACE = "0"
"""The key of the only step."""


class WholeCall(LiveCall):
    """It runs on the ordinary loop, in its first life in its request's context."""

    def __init__(self, worker: Worker, held: Held, function: Function, run: WholeStep, context: Context | None) -> None:
        super().__init__(worker, held, function)
        self._whole = run
        self._context = context
        self._task: asyncio.Task[Outcome] | None = None
        self._step: StepRun | None = None
        self._cancel: tuple[CancelAsked, int | None] | None = None
        self._was_in_doubt = False
        """The step, once it has ended or cannot begin."""

    def begin(self) -> None:
        self.set_deadline()
        self._start(None)

    async def begin_again(self, claimed: Claimed) -> None:
        if self.held.crashes >= MOST_CRASHES and self._whole.rerun:
            self.stick(dies_again_and_again(self.held, self._view.tool), diverged=False)
            return
        record = next((a for a in claimed.attempts if a.key == PLACE), None)
        began = self.held.begun and not (record is not None and record.ended)
        if began and not self._whole.rerun:
            self._was_in_doubt = True
            self._end_unknown()
            return
        self.set_deadline()
        self._start(record)
        for row in claimed.inbox:
            self.take_row(row)

    def _start(self, record: Attempt | None) -> None:
        facts = CallFacts(self.call_id, self._view.tool, self.caller, self.principal)
        work = self._whole.work(facts, self.held.arguments)
        if not self._whole.rerun:
            # Each attempt after the first, which the call's row stands for, is on disk before it begins.
            work = changed(work, at_most_once=True, retries_unknown=True)
        self._step = StepRun(self, PLACE, self._view.tool, work, so_far=record, again=record is not None, in_body=False)
        loop = asyncio.get_running_loop()
        context = self._context or work.context or Context()
        self._task = loop.create_task(self._step.run(), context=context)
        # No coroutine around it: one that is cancelled before it began would not hear of it.
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():
            self._stopped()
        elif error := task.exception():
            self.refused(error)
        elif not self.left:
            self._end_with(task.result())
        # The task knows its context, in which the step is, which knows us: only the collector would undo that.
        if self._step is not None:
            self._was_in_doubt = self._step.in_doubt
        self._task = self._step = None

    def _stopped(self) -> None:
        assert self._step is not None
        if self.left or self._cancel is None:
            return  # given back, or lost
        if self._step.thread_left:
            self._end_unknown()
        else:
            self._end(Cancelled(self._cancel[0].reason, self.ground.clock.now()))

    def _end_with(self, outcome: Outcome) -> None:
        now = self.ground.clock.now()
        if isinstance(outcome, Returned):
            self._end(Completed(outcome.value, now))
        else:
            self.ground.log_failure(self.call_id, outcome.error)
            self._end(Failed(encode_error(outcome.error), now), keeps_key=keeps_key(outcome.error))

    def _end_unknown(self) -> None:
        unknown = OutcomeUnknown(self._view.tool, idempotency_key(self.call_id, PLACE), self.call_id)
        self._end(Failed(encode_error(unknown), self.ground.clock.now()), keeps_key=True)

    def _end(self, end: End, *, keeps_key: bool = False) -> None:
        if self._cancel is None:
            unit = Unit(end.at)
        else:
            event, row = self._cancel
            unit = Unit(end.at, (event,), () if row is None else (row,))
        self.finish(end, unit, keeps_key=keeps_key)

    def take(self, event: Fed, row: int | None = None) -> None:
        # A whole step has no signals to receive: only a cancel can come.
        if self.left or self._task is None or not isinstance(event, CancelAsked):
            return
        self._cancel = self._cancel or (event, row)
        self.abandon()

    @property
    def is_idle(self) -> bool:
        return not self.left and self._step is not None and self._step.next_at is not None

    @property
    def has_begun(self) -> bool:
        return self._was_in_doubt if self._step is None else self._step.in_doubt

    @property
    def wake_at(self) -> float | None:
        times = (self.held.deadline, None if self._step is None else self._step.next_at)
        return min((when for when in times if when is not None), default=None)

    @property
    def steps_running(self) -> list[asyncio.Task[Outcome]]:
        return [] if self._task is None or self._task.done() or self.is_idle else [self._task]

    @property
    def names_running(self) -> list[str]:
        return [self._view.tool] if self.steps_running else []

    def abandon(self) -> None:
        if self._task is not None and self._step is not None:
            self._step.stop(self._task)  # also from within, where it parks: it ends at its next wait

    def give_back(self) -> None:
        """What was interrupted and may have happened ends here; nobody may run it again."""
        if self.left:
            return
        is_between_attempts = self.is_idle
        self.abandon()  # what no thread has begun by now has not happened
        if self._whole.rerun or is_between_attempts or not self.has_begun:
            super().give_back()
        else:
            self._end_unknown()
