"""One call with a body: feeds it, commits what each feed wrote, performs what came out.

An event is fed at once, in the order in which the journal will have it; what the feed asked for is held until
its unit is committed, because nothing may leave the process that a crash could take back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from perdure.core import commands as c
from perdure.core.body import WAITS, Body
from perdure.core.call import PYTHON, Status, child_call_id, new_seed
from perdure.core.codec import decode_error, encode_error, encode_step_error
from perdure.core.events import (
    Asked,
    CancelAsked,
    Cancelled,
    ChildRefused,
    ChildStarted,
    Completed,
    End,
    Event,
    Failed,
    Fed,
    Resumed,
    Signalled,
    Started,
    StepLate,
    StepRaised,
    StepReturned,
    StoreReturned,
    TimerFired,
)
from perdure.core.past import past_of
from perdure.core.record import changed
from perdure.engine import BodyFunction, CallFacts, Function, Notice
from perdure.engines.embedded.clock import Alarm
from perdure.engines.embedded.deciding import awaited_after, event_of, unit_for
from perdure.engines.embedded.journal import (
    Attempt,
    Claimed,
    Continue,
    Continued,
    Delivered,
    ForgetCrashes,
    Held,
    InboxRow,
    QuestionAsked,
)
from perdure.engines.embedded.live import DEADLINE, MOST_CRASHES, LiveCall, dies_again_and_again, keeps_key
from perdure.engines.embedded.steps import Outcome, Returned, StepRun
from perdure.engines.embedded.unit import Awaited, Unit
from perdure.errors import PayloadTooLarge, PerdureError

if TYPE_CHECKING:
    from perdure.engines.embedded.worker import Worker

STALE_AFTER = 1.0
"""Seconds since its last event after which a loaded body is told the time."""

SLICE = 500
"""Events that are fed one after another, of the past or of what waited, before the loop is given back."""

LONG_JOURNAL = 10_000

FED_LATER = Started | StoreReturned | ChildStarted | ChildRefused | Asked

NEW = c.Mark | c.SetStatus | c.ReportProgress | c.Finish
"""Commands that no recorded event implies."""


class BodyCall(LiveCall):
    def __init__(self, worker: Worker, held: Held, function: Function, run: BodyFunction) -> None:
        super().__init__(worker, held, function)
        facts = CallFacts(self.call_id, held.view.tool, self.caller, self.principal)

        def main(body: Body) -> Coroutine[Any, Any, bytes]:
            return run.main(body, facts, held.arguments)

        self._main = main
        self._readers = run.signals
        self._body: Body | None = None
        self._steps: dict[str, tuple[StepRun, asyncio.Task[None]]] = {}
        self._alarms: dict[str, Alarm] = {}
        self._awaited: dict[str, Awaited] = {}
        """Ends of calls and answers, and what the ledger is to hear when the body gives up waiting for one."""
        self._undecided = 0
        """Units in flight whose outcome only the database knows; later events wait behind them unfed."""
        self._backlog: deque[tuple[Fed, int | None]] = deque()
        self._held_back: list[c.Command] | None = None
        """While the inbox of a call that is loaded is fed: what is to be performed when all of it is."""
        self._cancelling: str | None = None
        self._recorded: list[Event] = []
        """The events so far, kept only where the finished body is replayed as a check."""

    # --- lives ---

    def begin(self) -> None:
        self._body = Body(self._main, call_id=self.call_id)
        self.set_deadline()
        started = Started(self.held.starts, self.held.seed, self.held.python)
        self._feed(started, recorded=True)

    async def begin_again(self, claimed: Claimed) -> None:
        held = self.held
        started = Started(held.starts, held.seed, held.python)
        recorded = past_of((started, *claimed.events))
        body = self._body = Body(self._main, call_id=self.call_id, markers=recorded.markers, python=held.python)
        past = recorded.fed
        if len(past) > LONG_JOURNAL:
            self.ground.log.warning("call %s has %d events: let it continue_as", self.call_id, len(past))
        try:
            tail = await self._replay(body, past)
        except PerdureError as error:
            self.stick(error, diverged=True)
            return
        if self.left:
            return
        if self.function.check:
            self._recorded = list(claimed.events)
        if self._dies_again_and_again(body):
            return
        # What the last recorded feed asked for is pending, and performed below: only what is new goes out.
        self._commit(self._unit(), [command for command in tail if isinstance(command, NEW)])
        if self.left:
            return
        if body.ends_given_up or body.questions_given_up:
            # They may have come about in the last commit of the life before; doing this twice changes nothing.
            self._append(
                self._unit(
                    unfollowed=body.ends_given_up,
                    withdrawn=body.questions_given_up,
                )
            )
        pending = list(body.pending.items())
        self._awaited.update((key, ask) for key, ask in pending if isinstance(ask, Awaited))
        # What came in goes first: a cancel keeps a step from running once more.
        self._tell_the_time(past[-1].at)
        asked_anew = await self._take_inbox(claimed.inbox)
        if self.left:
            return
        self._perform_pending(body, pending, {attempt.key: attempt for attempt in claimed.attempts})
        self._set_timers(body)
        self.set_deadline(past=any(isinstance(e, CancelAsked) and e.reason == DEADLINE for e in past))
        self._perform(asked_anew)

    async def _replay(self, body: Body, past: list[Fed]) -> list[c.Command]:
        """Feed what happened. What the body asks on the way is not performed; the last feed's commands come back."""
        last = len(past) - 1
        commands: list[c.Command] = []
        for position, event in enumerate(past):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
                if self.left:
                    return []
            # An event that was in the journal before it was fed: what was said upon it came in a later commit.
            said = position < last or not isinstance(event, FED_LATER)
            commands = self._feed_body(body, event, following=position < last, again=said)
            if isinstance(event, CancelAsked):
                self._cancelling = event.reason
        if body.finish is not None and body.finish not in commands:
            commands.append(body.finish)  # what came after it was on its way when the body ended
        return commands

    async def _take_inbox(self, rows: tuple[InboxRow, ...]) -> list[c.Command]:
        """Feed what came in, and nothing before the last of it: what the body asks for meanwhile comes back."""
        asked: list[c.Command] = []
        self._held_back = asked
        for position, row in enumerate(rows):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
                if self.left:
                    break
            self.take_row(row)
        self._held_back = None
        return asked

    def _dies_again_and_again(self, body: Body) -> bool:
        if not self.held.crashes:
            return False
        running = [ask.name for ask in body.pending.values() if isinstance(ask, c.RunStep)]
        if not running:
            self.ground.journal.write_soon(ForgetCrashes(self.n, self.held.epoch))
            return False
        if self.held.crashes < MOST_CRASHES:
            return False
        self.stick(dies_again_and_again(self.held, ", ".join(running)), diverged=False)
        return True

    def _perform_pending(self, body: Body, asked: list[tuple[str, c.Ask]], attempts: dict[str, Attempt]) -> None:
        """What the journal leaves open, and the body has not given up since."""
        for key, ask in asked:
            if self.left or body.pending.get(key) is not ask:
                continue
            match ask:
                case c.RunStep():
                    self._run_step(ask, attempts.get(key), again=not self.held.is_first)
                case c.AwaitEnd() | c.AwaitAnswer():
                    pass
                case _:
                    self._submit(ask)

    def _tell_the_time(self, last: float) -> None:
        now = self.ground.clock.now()
        if now - last > STALE_AFTER:
            self.take(Resumed(now))

    # --- events in ---

    def take_row(self, row: InboxRow) -> None:
        if isinstance(row.event, Signalled) and row.row > self._last_row and not self._reads(row.event):
            # It never was: no life is told of it, so all of them go the same way.
            self._last_row = row.row
            if not self.left:
                self._append(self._unit(consumed=(row.row,), unsent=(row.event.name,)))
        else:
            super().take_row(row)

    def _reads(self, signal: Signalled) -> bool:
        """Who sent it may have had no code, or another version's."""
        read = self._readers.get(signal.name)
        try:
            if read is not None:
                read(signal.value)
        except Exception as error:
            self.ground.log.error("call %s: a signal %r was dropped: %s", self.call_id, signal.name, error)
            return False
        return True

    def take(self, event: Fed, row: int | None = None) -> None:
        if self.left:
            return
        if self._undecided or self._backlog:
            self._backlog.append((event, row))
        else:
            self._feed(event, row)

    def _feed(self, event: Fed, row: int | None = None, *, recorded: bool = False) -> None:
        """Feed one event and commit it with what came of it; `recorded`: it is in the journal already."""
        body = self._body
        assert body is not None
        if isinstance(event, CancelAsked):
            self._cancelling = event.reason
        try:
            commands = self._feed_body(body, event)
        except PerdureError as error:
            if isinstance(event, StepReturned | StepRaised):
                # It happened: what a step came to is not lost with a body that cannot take it.
                self._append(self._unit(events=(event,)))
            self.stick(error, diverged=True)
            return
        if self.function.check and not isinstance(event, Started):
            self._recorded.append(event)
        unit = Unit(self.ground.clock.now(), () if recorded else (event,), () if row is None else (row,))
        self._commit(unit, commands)

    def _feed_body(self, body: Body, event: Fed, *, following: bool = False, again: bool = False) -> list[c.Command]:
        watchdog = self.ground.watchdog
        watchdog.entered(self.call_id)
        try:
            return body.feed(event, following=following, again=again)
        finally:
            watchdog.left()

    # --- one unit ---

    def _unit(self, **parts: Any) -> Unit:
        """One that no event led to, or none that asked for anything."""
        return Unit(self.ground.clock.now(), **parts)

    def _commit(self, unit: Unit, commands: Iterable[c.Command]) -> None:
        """Write what one feed made, then perform what it asked for."""
        happened = len(unit.events)
        unit.fold(commands)
        for key in unit.abandoned:
            if ask := self._awaited.pop(key, None):
                unit.give_up(ask)
        unit.gives_way = bool(unit.withdrawn) and self._can_give_way(unit)
        if self.function.check:
            self._recorded += unit.events[happened:]
        if unit.finish is not None:
            self._finish(unit, unit.finish)
            return
        status = self._status_now()
        if unit.writes or status != self._status:
            self._append(unit, status)
        else:
            self._perform(unit.held)
        for command in unit.undecided:
            if self._body is not None and command.key in self._body.pending:
                self._submit(command)

    def _can_give_way(self, unit: Unit) -> bool:
        """The answer may have come after the inbox was looked at. Then the call begins again from its journal, which
        would interrupt a step that runs: with one the time-out counts."""
        if not unit.events or not isinstance(unit.events[0], TimerFired) or self._steps:
            return False
        assert self._body is not None
        to_begin = sum(isinstance(command, c.RunStep) for command in unit.held)
        return sum(isinstance(ask, c.RunStep) for ask in self._body.pending.values()) == to_begin

    def _status_now(self) -> Status:
        return "waiting" if self._body is not None and self._body.is_waiting else "running"

    def _append(self, unit: Unit, status: Status | None = None) -> None:
        shown = unit.shown()
        if status is not None and status != self._status:
            self._status = shown["status"] = status

        def committed(told: tuple[Delivered, ...]) -> None:
            if shown:
                self.show(**shown)
            if unit.changes_questions:
                self.look_at_questions_soon()
            if told:
                self.ground.wake(told)
            self._perform(unit.held if unit.events else ())

        self.write(unit.append(self.n, self.held.epoch, self._status), committed)
        if not unit.events:
            # The event that led here is on disk: only what is shown hangs on this unit.
            self._perform(unit.held)

    def _finish(self, unit: Unit, finish: c.Finish) -> None:
        if isinstance(finish, c.ContinueAs):
            said = unit.without_events()
            if said.writes:
                self._append(said)
            self._continue(finish, unit)
            return
        keeps = False
        end: End
        match finish:
            case c.Complete():
                end = Completed(finish.value, unit.at)
            case c.Fail():
                end = Failed(finish.error, unit.at)
                error = decode_error(finish.error)
                keeps = keeps_key(error)
                self.ground.log_failure(self.call_id, error)
            case c.EndCancelled():
                end = Cancelled(self._cancelling or "", unit.at)
        if shown := unit.shown():
            self._view = changed(self._view, **shown)
        body = self._body
        self._stop()
        self.finish(end, unit, lambda: self._say(unit), keeps_key=keeps)
        if body is not None:
            body.drop()
        if self.function.check:
            self._check_replay(finish)

    def _say(self, unit: Unit) -> None:
        """Of a body that has ended, only what it told its clients is left to be done."""
        for command in unit.held:
            if isinstance(command, c.SendLog | c.NotifyChange):
                self.ground.notify(Notice(self.call_id, command))

    def _continue(self, finish: c.ContinueAs, unit: Unit) -> None:
        """With a new journal, in a body that begins when the old one's end is committed."""
        body = self._body
        assert body is not None
        self.left = True
        write = Continue(
            n=self.n,
            epoch=self.held.epoch,
            at=unit.at,
            arguments=finish.arguments,
            consumed=unit.consumed,
            unheard=tuple(body.signals_unheard()),
            seed=new_seed(),
            python=PYTHON,
        )

        def continued(result: Continued, error: BaseException | None) -> None:
            if error is not None:
                self.refused(error)
                return
            self._say(unit)
            self._forget()
            self.ground.wake(result.told)
            self.ground.go_on(result.held)

        self._stop()
        body.drop()
        self.ground.journal.write(write, continued)
        if self.function.check:
            self._check_replay(finish)

    def _check_replay(self, finish: c.Finish) -> None:
        """Run the finished body once more over its journal: it must end the same way."""
        past = past_of((Started(self.held.starts, self.held.seed, self.held.python), *self._recorded))
        body = Body(self._main, call_id=self.call_id, markers=past.markers, python=self.held.python)
        try:
            for position, event in enumerate(past.fed):
                body.feed(event, following=position < len(past.fed) - 1, again=True)
            if body.finish != finish:
                self.ground.replay_differs(self.call_id, f"it ended as {body.finish}, and before as {finish}")
        except PerdureError as error:
            self.ground.replay_differs(self.call_id, str(error))
        finally:
            body.drop()

    # --- commands out ---

    def _perform(self, commands: Iterable[c.Command]) -> None:
        if self._held_back is not None:
            self._held_back += commands
            return
        for command in commands:
            if self.left:
                return
            match command:
                case c.RunStep():
                    assert self._body is not None
                    if command.key in self._body.pending and not self.ground.draining:
                        self._run_step(command, None, again=False)
                case c.SetTimer():
                    self._set_timer(command.key, command.when)
                case c.DropTimer():
                    if alarm := self._alarms.pop(command.key, None):
                        alarm.cancel()
                case c.Abandon():
                    self._abandon_step(command.key)
                case c.SendLog() | c.NotifyChange():
                    self.ground.notify(Notice(self.call_id, command))
                case _:
                    raise AssertionError(command)
        if self.is_idle:
            self.ground.idle(self)

    def _run_step(self, command: c.RunStep, so_far: Attempt | None, *, again: bool) -> None:
        step = StepRun(self, command.key, command.name, command.work, so_far=so_far, again=again)
        task = asyncio.get_running_loop().create_task(
            self._step_to_its_end(step, command), context=command.work.context
        )
        self._steps[command.key] = (step, task)

    async def _step_to_its_end(self, step: StepRun, command: c.RunStep) -> None:
        body = self._body
        if body is None or step.key not in body.pending:
            return  # given up before it began, and the commit that says so is on its way
        try:
            outcome = await step.run()
        except Exception as error:  # not the step's own, which is an outcome
            self.refused(error)
            return
        self._steps.pop(step.key, None)
        if self.left:
            return
        if step.key in body.pending:
            self.take(self._step_event(command, outcome))
        else:
            self._note_late(step, outcome)

    def _step_event(self, command: c.RunStep, outcome: Outcome) -> StepReturned | StepRaised:
        key, name, digest, now = command.key, command.name, command.digest, self.ground.clock.now()
        if isinstance(outcome, Returned):
            return StepReturned(key, name, digest, outcome.value, outcome.attempts, outcome.began, now)
        error, limit = encode_step_error(outcome.error, step=name, attempts=outcome.attempts), self.ground.payload_limit
        if len(error) > limit:
            error = encode_error(PayloadTooLarge(f"The error of step {name!r}", len(error), limit))
        return StepRaised(key, name, digest, error, outcome.attempts, outcome.began, now)

    def _note_late(self, step: StepRun, outcome: Outcome) -> None:
        """The body gave up on it while it ended: for the timeline, fed to nobody."""
        error = None if isinstance(outcome, Returned) else encode_error(outcome.error)
        late = StepLate(step.key, step.name, error, outcome.attempts, outcome.began, self.ground.clock.now())
        self._append(self._unit(events=(late,)))

    def _abandon_step(self, key: str) -> None:
        running = self._steps.pop(key, None)
        if running is not None:
            step, task = running
            step.stop(task)

    def _set_timers(self, body: Body) -> None:
        for key, when in body.timers.items():
            if key not in self._alarms:
                self._set_timer(key, when)

    def _set_timer(self, key: str, when: float) -> None:
        self._alarms[key] = self.ground.clock.alarm(when, lambda: self._timer_due(key, when))

    def _timer_due(self, key: str, when: float) -> None:
        def fire() -> None:
            fired = TimerFired(key, max(when, self.ground.clock.now()))
            if self._still_wanted(fired):
                self.take(fired)

        self._alarms.pop(key, None)
        # What came in before the timer was found due is fed first: an approval beats a deadline that nobody was
        # there to notice.
        self.after_inbox(fire)

    # --- asks that the database decides ---

    def _submit(self, command: c.Decided) -> None:
        now = self.ground.clock.now()
        self._undecided += 1
        self._commits_in_flight += 1

        def decided(result: Any, error: BaseException | None) -> None:
            self._undecided -= 1
            self._commits_in_flight -= 1
            if self.left:
                return
            if error is not None:
                self.refused(error)
                return
            self._heed(result)
            event = event_of(command, result, now)
            if (ask := awaited_after(command, event)) is not None:
                self._await(ask)
            self._feed(event, recorded=True)
            self._feed_backlog()

        self.ground.journal.write(unit_for(command, self.held, self.place(command.key), now), decided)

    def _heed(self, result: Any) -> None:
        """Others whom it concerns look at it."""
        match result:
            case ChildStarted():
                self.ground.call_started(result.call_id)
                if result.call_id != child_call_id(self.call_id, self.place(result.key)):
                    self.look_soon()  # it was there before us, and may have ended already
            case QuestionAsked() if result.asked.error is None:
                self.look_at_questions_soon()
                self.ground.wake(result.told)
            case _:
                pass

    def _await(self, ask: Awaited) -> None:
        assert self._body is not None
        if ask.key in self._body.pending:
            self._awaited[ask.key] = ask
        else:  # given up while it was being decided
            unit = self._unit()
            unit.give_up(ask)
            self._append(unit)

    def _feed_backlog(self) -> None:
        """What comes meanwhile waits behind it."""
        for _ in range(SLICE):
            if not self._backlog or self._undecided or self.left:
                return
            event, row = self._backlog.popleft()
            if self._still_wanted(event):
                self._feed(event, row)
        asyncio.get_running_loop().call_soon(self._feed_backlog)

    def _still_wanted(self, event: Fed) -> bool:
        assert self._body is not None
        match event:
            case StepReturned() | StepRaised():
                return event.key in self._body.pending
            case TimerFired():
                return event.key in self._body.timers
            case _:
                return True

    # --- leaving memory ---

    @property
    def is_idle(self) -> bool:
        if self.left or self._body is None or self._commits_in_flight:
            return False
        if self._backlog or self._held_back is not None:
            return False
        for step, _ in self._steps.values():  # no generator: it is asked after each feed
            if step.next_at is None:
                return False
        # What was asked and is not on its way yet is no wait either.
        return all(isinstance(ask, WAITS) or key in self._steps for key, ask in self._body.pending.items())

    @property
    def has_begun(self) -> bool:
        return self._body is not None

    @property
    def steps_running(self) -> list[asyncio.Task[None]]:
        return [task for step, task in self._steps.values() if step.next_at is None and not task.done()]

    @property
    def names_running(self) -> list[str]:
        return [step.name for step, _ in self._steps.values() if step.next_at is None]

    @property
    def wake_at(self) -> float | None:
        assert self._body is not None
        times = [*self._body.timers.values(), *(s.next_at for s, _ in self._steps.values() if s.next_at is not None)]
        if self.held.deadline is not None and self._cancelling is None:
            times.append(self.held.deadline)
        return min(times, default=None)

    def abandon(self) -> None:
        self._stop()
        if self._body is not None:
            self._body.drop()

    def _stop(self) -> None:
        for step, task in self._steps.values():
            step.stop(task)
        self._steps.clear()
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
