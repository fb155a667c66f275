"""A call in memory: what a body and a whole step have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from perdure.core.call import Status
from perdure.core.codec import encode_error
from perdure.core.events import CancelAsked, Completed, End, Failed, Fed
from perdure.core.record import changed
from perdure.engine import CallView, Function, Progress
from perdure.engines.embedded.clock import Alarm
from perdure.engines.embedded.journal import (
    Append,
    Attempt,
    Claimed,
    Delivered,
    Fenced,
    Held,
    InboxRow,
    MarkStuck,
    NoteAttempt,
    OpenQuestions,
    Overtaken,
    ReadInbox,
    View,
    Yield,
    commit,
)
from perdure.engines.embedded.ledger.rows import cancellation
from perdure.engines.embedded.unit import Unit
from perdure.errors import OutcomeUnknown, PayloadTooLarge, PerdureError, StorageError

if TYPE_CHECKING:
    from perdure.effects import Host
    from perdure.engines.embedded.worker import Worker

MOST_CRASHES = 5
"""Lives that may end with their process dead while a step ran, before the call is stuck."""

DEADLINE = "deadline"
"""The reason of a cancellation that nobody asked for."""


class LiveCall(ABC):
    """A call that this process owns and has in memory, until it ends, parks, is stuck, or is lost to a later claim."""

    def __init__(self, worker: Worker, held: Held, function: Function) -> None:
        self.ground = worker
        self.held = held
        self.function = function
        self.n = held.n
        self.call_id = held.view.id
        self.caller = held.caller
        self.principal = held.principal
        self.left = False
        """It no longer belongs to this process, or is about to."""
        self._view = held.view
        self._status: Status = held.view.status
        self._commits_in_flight = 0
        self.is_loading = False
        """Its past is not fed yet: what comes in now comes later."""
        self._will_look = False
        self._looks_at_questions = 0
        self._last_row = 0
        """Of the inbox. Rows ascend; what a commit consumed may still be shown by a read that began before it."""
        self._deadline: Alarm | None = None

    # --- what steps need of their call ---

    @property
    def host(self) -> Host:
        return self.function.host

    def report(self, progress: float, total: float | None, message: str | None) -> None:
        """Progress of a step: shown at once, and recorded with the call's next commit."""
        if not self.left:
            self.show(progress=Progress(progress, total, message))

    def place(self, key: str) -> str:
        """What makes an ask of this call's body unlike all others of the call, also those of its earlier journals."""
        return key if self.held.run == 0 else f"{self.held.run}:{key}"

    async def note(self, attempt: Attempt, status: Status) -> None:
        try:
            await commit(self.ground.journal, NoteAttempt(self.n, self.held.epoch, attempt, status))
        except Fenced:
            self.lose()
            raise asyncio.CancelledError from None
        self._status = status
        self.show(status=status)
        if self.is_idle:
            self.ground.idle(self)

    # --- what is seen ---

    @property
    def view(self) -> CallView:
        return self._view

    async def newest_view(self) -> CallView:
        """With what it asks by now, as whoever reads the journal sees it already; no older one is seen after it."""
        if self._looks_at_questions:
            await self._look_at_questions()
        return self._view

    def show(self, **changes: Any) -> None:
        """Change the view, and tell those who watch."""
        self._view = changed(self._view, version=self._view.version + 1, **changes)
        self.ground.publish(self._view)

    # --- lives ---

    @abstractmethod
    def begin(self) -> None:
        """The first life of a new call, whose row is on disk."""
        ...

    @abstractmethod
    async def begin_again(self, claimed: Claimed) -> None:
        """A later life, or the first one of a call that somebody else started."""
        ...

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Nothing of it runs: it could leave memory."""
        ...

    @property
    @abstractmethod
    def wake_at(self) -> float | None:
        """When it would have to come back into memory; None: when something arrives."""
        ...

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Something of it ran in this life, which whoever gets it next has to heed."""
        ...

    def is_due(self, now: float) -> bool:
        wake_at = self.wake_at
        return wake_at is not None and wake_at <= now

    def park(self) -> None:
        """Leave memory until something is due or arrives."""
        self.left = True
        unit = Append(
            n=self.n,
            epoch=self.held.epoch,
            at=self.ground.clock.now(),
            events=(),
            status="waiting",
            park=True,
            wake_at=self.wake_at,
        )
        self.abandon()
        self.write(unit, lambda _: self._parked())

    def _parked(self) -> None:
        self._forget()
        self.ground.look()

    @property
    @abstractmethod
    def steps_running(self) -> Sequence[asyncio.Task[Any]]: ...

    @property
    @abstractmethod
    def names_running(self) -> list[str]:
        """Of these steps, for people."""
        ...

    @abstractmethod
    def take(self, event: Fed, row: int | None = None) -> None:
        """Something happened to the call; `row` is where it came from, if from the inbox."""
        ...

    @abstractmethod
    def abandon(self) -> None:
        """Stop whatever runs, without a trace in the journal."""
        ...

    def set_deadline(self, past: bool = False) -> None:
        if self.held.deadline is not None and not past:
            self._deadline = self.ground.clock.alarm(self.held.deadline, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self.after_inbox(lambda: self.take(CancelAsked(DEADLINE, self.ground.clock.now())))

    def after_inbox(self, then: Callable[[], None]) -> None:
        """Do it when all is taken that came in before; where that cannot be read, it is tried again in a second."""

        async def look() -> None:
            try:
                await self.look_at_inbox()
            except StorageError as error:
                self.ground.log.warning("the inbox of call %s cannot be read now: %s", self.call_id, error)
                self.ground.clock.alarm(self.ground.clock.now() + 1.0, lambda: self.after_inbox(then))
            else:
                if not self.left:
                    then()

        if not self.left:
            self.ground.spawn(look())

    def look_soon(self) -> None:
        """Something came in; a look that has not begun sees it too."""
        if not self._will_look:
            self._will_look = True
            self.ground.spawn(self._look())

    async def _look(self) -> None:
        self._will_look = False
        try:
            await self.look_at_inbox()
        except StorageError:
            self.after_inbox(lambda: None)

    def look_at_questions_soon(self) -> None:
        """What the call or a child of it asks may be another now."""
        self._looks_at_questions += 1
        self.ground.spawn(self._look_soon_at_questions())

    async def _look_soon_at_questions(self) -> None:
        try:
            await self._look_at_questions()
        finally:
            self._looks_at_questions -= 1

    async def _look_at_questions(self) -> None:
        questions = await self.ground.journal.read(OpenQuestions(self.n))  # reads end in the order they began
        if not self.left and questions != self._view.questions:
            self.show(questions=questions)

    async def look_at_inbox(self) -> None:
        """Take what came in from outside, in the order in which it came."""
        if self.left or self.is_loading:
            return
        for row in await self.ground.journal.read(ReadInbox(self.n, self._last_row)):
            self.take_row(row)

    def take_row(self, row: InboxRow) -> None:
        if row.row > self._last_row:
            self._last_row = row.row
            self.take(row.event, row.row)

    # --- writing ---

    def write(self, append: Append, then: Callable[[tuple[Delivered, ...]], None]) -> None:
        """Commit one unit; `then` is not called when the call is lost, or the unit gave way."""
        self._commits_in_flight += 1

        def done(result: tuple[Delivered, ...] | Overtaken, error: BaseException | None) -> None:
            self._commits_in_flight -= 1
            if error is not None:
                self.refused(error)
            elif isinstance(result, Overtaken):
                self._overtaken()
            else:
                then(result)

        self.ground.journal.write(append, done)

    def _overtaken(self) -> None:
        """It went another way than its journal will: it begins again from there."""
        self.left = True
        self.abandon()
        self._forget()
        self.ground.wake((Delivered(self.n, None),))

    def refused(self, error: BaseException) -> None:
        """A unit of ours was not written: nothing that follows from it may leave."""
        if isinstance(error, Fenced):
            self.lose()
        elif isinstance(error, StorageError):
            self.lose()
            self.ground.give_back_later(self.held, begun=self.has_begun)
        else:
            self.stick(error, diverged=False)

    def finish(
        self, end: End, unit: Unit, before_shown: Callable[[], None] | None = None, *, keeps_key: bool = False
    ) -> None:
        """The end, in one commit with what led to it; `before_shown` runs when it is committed and not yet seen."""
        self.left = True
        self._view = changed(self._view, questions=())  # nobody is asked any more for a body that has ended
        end = self._within_limit(end)
        match end:
            case Completed():
                status, failure, outcome = "completed", None, end.value
            case Failed():
                status, failure, outcome = "failed", end.error, None
            case _:
                status, failure, outcome = "cancelled", cancellation(end.reason), None

        def ended(told: tuple[Delivered, ...]) -> None:
            if before_shown is not None:
                before_shown()
            self._forget()
            self.show(
                status=status, questions=(), outcome=outcome, failure=failure, ended=datetime.fromtimestamp(end.at, UTC)
            )
            self.ground.wake(told)

        self.write(unit.append(self.n, self.held.epoch, status, end, keeps_key=keeps_key), ended)

    def _within_limit(self, end: End) -> End:
        """An outcome that cannot be recorded for its size is a failure that says so."""
        limit = self.ground.payload_limit
        match end:
            case Completed() if len(end.value) > limit:
                what, size = "The outcome", len(end.value)
            case Failed() if len(end.error) > limit:
                what, size = "The error", len(end.error)
            case _:
                return end
        return Failed(encode_error(PayloadTooLarge(f"{what} of {self._view.tool!r}", size, limit)), end.at)

    def stick(self, error: BaseException, *, diverged: bool) -> None:
        """It cannot go on; an operator, or code that fits, can."""
        self.left = True
        self.abandon()
        failure = encode_error(error)
        self.ground.log.error("call %s is stuck: %s", self.call_id, error)
        mark = MarkStuck(self.n, self.held.epoch, self.ground.clock.now(), failure, diverged)

        def stuck(ended: Delivered | None, refusal: BaseException | None) -> None:
            self._forget()
            if refusal is not None:
                if not isinstance(refusal, Fenced):
                    self.ground.give_back_later(self.held, begun=self.has_begun)  # to be stuck there
                return
            if ended is None:
                self.show(status="stuck", failure=failure)
            else:
                self.ground.spawn(self._show_end())
                self.ground.wake(ended.parents)

        self.ground.journal.write(mark, stuck)

    async def _show_end(self) -> None:
        """Of an end that was not this worker's doing."""
        now = await self.ground.journal.read(View(self.call_id))
        self.show(status=now.status, failure=now.failure, ended=now.ended)

    def lose(self) -> None:
        """Somebody claimed it after us, or the storage is gone."""
        if not self.left:
            self.ground.log.warning("call %s is no longer ours", self.call_id)
        self.left = True
        self.abandon()
        self._forget()

    def give_back(self) -> None:
        """Release it to a sibling or the next start."""
        if self.left:
            return
        self.left = True
        self.abandon()
        given_back = Yield(self.n, self.held.epoch, self.has_begun)
        self.ground.journal.write(given_back, lambda _result, _error: self._forget())

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.ground.forget(self)


def dies_again_and_again(held: Held, running: str) -> PerdureError:
    why = f"its process died {held.crashes} times while {running} ran"
    return PerdureError(f"{why}. Mend the step, then `perdure retry {held.view.id}`.")


def keeps_key(error: BaseException) -> bool:
    """Nobody knows whether it happened, so nobody may do it again under the same key."""
    return isinstance(error, OutcomeUnknown)
