"""One step from its first attempt to its outcome: retries, time-outs, and what is done about unknown outcomes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from inspect import isawaitable
from random import random
from typing import Any, Protocol

from perdure.core.call import Status, idempotency_key
from perdure.core.codec import words_of
from perdure.core.commands import Work
from perdure.core.record import record
from perdure.core.retry import next_delay
from perdure.effects import Frame, Host, running_frame
from perdure.engine import Principal
from perdure.engines.embedded.clock import Clock
from perdure.engines.embedded.journal import Attempt
from perdure.engines.embedded.slots import Slots
from perdure.engines.embedded.threads import ThreadOutcome, Threads
from perdure.errors import OutcomeUnknown, PayloadTooLarge

RECONCILE_ASKS = 5
"""How often `reconcile` itself is tried when its step goes on for ever."""

LONGEST_ERROR = 2000
"""Characters of an error that the record of an attempt keeps; the outcome has it whole."""


@record
class Returned:
    value: bytes
    attempts: int
    began: float


@record
class Raised:
    error: BaseException
    attempts: int
    began: float


Outcome = Returned | Raised


class Ground(Protocol):
    """What a step stands on: its call in its worker."""

    clock: Clock
    slots: Slots
    threads: Threads
    payload_limit: int

    @property
    def is_ending(self) -> bool:
        """Tasks are cancelled because the worker or its loop ends, not because of what they do."""
        ...


class Owner(Protocol):
    """The call that a step belongs to."""

    def place(self, key: str) -> str: ...
    @property
    def call_id(self) -> str: ...
    @property
    def caller(self) -> str | None: ...
    @property
    def principal(self) -> Principal | None: ...
    @property
    def host(self) -> Host: ...
    @property
    def ground(self) -> Ground: ...
    def report(self, progress: float, total: float | None, message: str | None) -> None: ...

    async def note(self, attempt: Attempt, status: Status) -> None:
        """The attempt is on disk when this returns."""
        ...


class StepRun:
    """Runs one step until it has an outcome. `so_far`: what earlier lives recorded; `again`: one may have begun it."""

    __slots__ = (
        "_again",
        "_attempt",
        "_in_body",
        "_is_stopped",
        "_owner",
        "_record",
        "_thread",
        "in_doubt",
        "key",
        "name",
        "next_at",
        "thread_left",
        "work",
    )

    def __init__(
        self,
        owner: Owner,
        key: str,
        name: str,
        work: Work,
        *,
        so_far: Attempt | None = None,
        again: bool = False,
        in_body: bool = True,
    ) -> None:
        self._owner = owner
        self.key = key
        self.name = name
        self.work = work
        self._record = so_far
        self._attempt = so_far.count if so_far else 0
        self._again = again
        self._in_body = in_body
        self._is_stopped = False
        self._thread: Future[ThreadOutcome] | None = None
        self.in_doubt = False
        """An attempt was begun here, and its end is not on disk."""
        self.next_at = so_far.next_at if so_far else None
        """When the next attempt is due, while the step waits for it."""
        self.thread_left = False
        """A thread that could not be stopped was left to itself."""

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task`, which runs it. What no thread has begun by now never runs."""
        self._is_stopped = True
        if self._thread is not None and self._thread.cancel():
            self.in_doubt = False
        task.cancel()

    async def run(self) -> Outcome:
        """The outcome. What an attempt that failed came to is on disk before the next one begins."""
        began = self._record.first_began if self._record else self._owner.ground.clock.now()
        try:
            if self._may_have_happened and (settled := await self._settle(began)):
                return settled
            if self.next_at is not None:
                await self._wait_until(self.next_at)
            while True:
                self._attempt += 1
                came_to = await self._try(began)
                if not isinstance(came_to, BaseException):
                    return came_to
                if settled := await self._give_up_or_wait(began, came_to):
                    return settled
        except asyncio.CancelledError as error:
            if self._is_over:
                raise
            # The step's own, or a cancel that leaked to it: nobody else would ever say that it ended.
            unknown = self.thread_left and self.work.at_most_once
            return Raised(self._unknown() if unknown else error, max(self._attempt, 1), began)

    @property
    def _is_over(self) -> bool:
        return self._is_stopped or self._owner.ground.is_ending

    async def _try(self, began: float) -> Outcome | BaseException:
        """One attempt, when it is its turn: the outcome, or what it failed with."""
        ground, work = self._owner.ground, self.work
        self._thread = None
        if work.threaded or not ground.slots.take_at_once():
            await self._take_slots()
        try:
            self.in_doubt = True
            if work.at_most_once and (self._in_body or self._attempt > 1):
                await self._note(began, None)  # the first attempt of a whole step is its call's row
            try:
                value = await self._run_once()
                if isinstance(value, ThreadOutcome):
                    value = value.unwrap()
            except (asyncio.CancelledError, KeyboardInterrupt):
                raise
            except BaseException as error:
                return error
            return self._returned(value, began)
        finally:
            ground.slots.give_back()
            if work.threaded and self._thread is None:
                ground.threads.slots.give_back()

    async def _take_slots(self) -> None:
        ground = self._owner.ground
        if not self.work.threaded:
            await ground.slots.take()
            return
        await ground.threads.slots.take()  # first: who waits for a thread keeps no other step from running
        try:
            await ground.slots.take()
        except BaseException:
            ground.threads.slots.give_back()
            raise

    @property
    def _may_have_happened(self) -> bool:
        if self.work.reconcile is not None:
            return self._again or self._record is not None
        return self.work.at_most_once and self._record is not None and not self._record.ended

    async def _give_up_or_wait(self, began: float, error: BaseException) -> Outcome | None:
        """After a failed attempt: the outcome, or None when the next attempt is due."""
        if self.work.reconcile is not None:
            if settled := await self._settle(began):
                return settled
        elif isinstance(error, _TimedOut) and self.work.at_most_once and self.in_doubt:
            return Raised(self._unknown(), self._attempt, began)
        delay = self._delay(error)
        if delay is None:
            return Raised(TimeoutError(str(error)) if isinstance(error, _TimedOut) else error, self._attempt, began)
        self.next_at = self._owner.ground.clock.now() + delay
        await self._note(began, error)
        self.in_doubt = False
        await self._wait_until(self.next_at)
        return None

    async def _settle(self, began: float) -> Outcome | None:
        """Decide what became of an attempt that may have happened; None: it did not."""
        ask = self.work.reconcile
        attempts = max(self._attempt, 1)
        if ask is None:
            return Raised(self._unknown(), attempts, began)
        policy = self.work.retry
        asks = RECONCILE_ASKS if policy.attempts is None else policy.attempts
        for count in range(1, asks + 1):
            self._enter()
            try:
                async with asyncio.timeout(self.work.timeout):
                    found = await ask()
            except asyncio.CancelledError:
                if self._is_over:
                    raise
                break  # its own: nothing more is known
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if not isinstance(error, Exception):
                    break
                wait = next_delay(policy, count, error, self.work.useless, random())
                if wait is None:
                    break
                await self._wait_until(self._owner.ground.clock.now() + wait.total_seconds())
            else:
                return None if found is None else self._returned(found, began)
        return Raised(self._unknown(), attempts, began)

    def _delay(self, error: BaseException) -> float | None:
        if not isinstance(error, Exception) or (self.work.at_most_once and not self.work.retries_unknown):
            return None
        wait = next_delay(self.work.retry, self._attempt, error, self.work.useless, random())
        return None if wait is None else wait.total_seconds()

    async def _note(self, began: float, error: BaseException | None) -> None:
        """Record that an attempt begins, or with which error it ended and when the next one is due."""
        before = self._record
        words = None if error is None else words_of(error)[:LONGEST_ERROR]
        self._record = Attempt(
            self.key,
            self.name,
            self._attempt,
            ended=error is not None,
            first_began=began,
            last_began=self._owner.ground.clock.now() if error is None or before is None else before.last_began,
            first_error=(before.first_error if before else None) or words,
            last_error=words or (before.last_error if before else None),
            next_at=self.next_at,
        )
        await self._owner.note(self._record, "running" if error is None else "waiting")

    async def _wait_until(self, when: float) -> None:
        self.next_at = when
        due = asyncio.get_running_loop().create_future()
        alarm = self._owner.ground.clock.alarm(when, lambda: None if due.done() else due.set_result(None))
        try:
            await due
        finally:
            alarm.cancel()
        self.next_at = None

    async def _run_once(self) -> Any:
        self._enter()
        work = self.work
        if work.threaded:
            return await self._run_in_thread()
        if work.timeout is None:
            value = work.run()
            return await value if isawaitable(value) else value
        scope = asyncio.timeout(work.timeout)
        try:
            async with scope:
                return await work.run()
        except TimeoutError as error:
            if scope.expired():
                raise _TimedOut(f"{self.name} took longer than {work.timeout:g} s") from error
            raise

    async def _run_in_thread(self) -> ThreadOutcome:
        thread = self._thread = self._owner.ground.threads.run(self.work.run)
        try:
            await asyncio.wait({asyncio.wrap_future(thread)}, timeout=self.work.timeout)
        except asyncio.CancelledError:
            if not self._has_ended(thread) or thread.result().error is not None:
                raise  # but what a cancel was too late for has happened
        if not self._has_ended(thread):
            raise _TimedOut(f"{self.name} took longer than {self.work.timeout or 0:g} s")
        return thread.result()

    def _has_ended(self, thread: Future[ThreadOutcome]) -> bool:
        """A thread cannot be stopped: past its time, or cancelled, it is left to itself, unless it never began."""
        if thread.cancel():
            self.in_doubt = self.thread_left = False
            return False
        self.thread_left = not thread.done()
        return not self.thread_left

    def _enter(self) -> None:
        owner = self._owner
        running_frame.set(
            Frame(
                host=owner.host,
                caller=owner.caller,
                principal=owner.principal,
                call_id=owner.call_id,
                name=self.name,
                attempt=max(self._attempt, 1),
                place=owner.place(self.key),
                in_body=self._in_body,
                report=owner.report,
                loop=asyncio.get_running_loop(),
            )
        )

    def _returned(self, value: Any, began: float) -> Outcome:
        """It happened: what cannot be recorded now fails the step, and is no reason to do it again."""
        limit = self._owner.ground.payload_limit
        try:
            raw = self.work.encode(value)
        except Exception as error:
            return Raised(error, self._attempt, began)
        if len(raw) > limit:
            return Raised(PayloadTooLarge(f"The result of step {self.name!r}", len(raw), limit), self._attempt, began)
        return Returned(raw, max(self._attempt, 1), began)

    def _unknown(self) -> OutcomeUnknown:
        call_id = self._owner.call_id
        key = idempotency_key(call_id, self._owner.place(self.key))
        return OutcomeUnknown(self.name, key, None if self._in_body else call_id)


class _TimedOut(TimeoutError):
    """Our own time-out, told apart from one that the step raised."""
