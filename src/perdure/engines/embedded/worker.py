"""A process with the code loaded: claims calls that are due, has them in memory while they run, lets go of them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from perdure.engine import BodyFunction, CallView, Function, Notice
from perdure.engines.embedded.clock import Alarm, Clock
from perdure.engines.embedded.errands import Errands
from perdure.engines.embedded.journal import (
    Arrived,
    Claim,
    Claimed,
    Delivered,
    Held,
    Journal,
    NextDue,
    NextExpiry,
    Offer,
    Owned,
    RemoveExpired,
    View,
    Yield,
    commit,
)
from perdure.engines.embedded.live import LiveCall
from perdure.engines.embedded.presence import Presence
from perdure.engines.embedded.runner import BodyCall
from perdure.engines.embedded.schedules import Schedules
from perdure.engines.embedded.slots import Slots
from perdure.engines.embedded.threads import Threads
from perdure.engines.embedded.watchdog import Watchdog
from perdure.engines.embedded.whole import WholeCall
from perdure.errors import StorageError

log = logging.getLogger("perdure")

CLAIMED_AT_ONCE = 200
"""Calls that one claim takes: a batch of journals is read under the write lock."""

PARK_AFTER = 10.0
"""Seconds without work after which a body leaves memory, if nothing is due for as long again."""

REMOVED_AT_ONCE = 200

GIVEN_BACK_WITHIN = 0.5
"""Seconds that a drained worker waits for the disk before it tells siblings what it gave back."""


class Worker:
    """Runs calls of `functions` until it is drained."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        presence: Presence,
        watchdog: Watchdog,
        functions: Sequence[Function],
        *,
        publish: Callable[[CallView], None],
        notify: Callable[[Notice], None],
        threads: int,
        concurrent_steps: int,
        bodies_in_memory: int,
        payload_limit: int,
    ) -> None:
        self.journal = journal
        self.clock = clock
        self.presence = presence
        self.watchdog = watchdog
        self.publish = publish
        self.notify = notify
        self.payload_limit = payload_limit
        self.log = log
        self.slots = Slots(concurrent_steps)
        self.threads = Threads(threads)
        self.replay_differences: list[str] = []
        """What the replay check found, for trials to raise."""
        self._functions_served = functions
        self._functions: dict[str, Function] = {}
        self._newest_read: Function | None = None
        self._most_in_memory = bodies_in_memory
        self._live: dict[str, LiveCall] = {}
        self._by_n: dict[int, LiveCall] = {}
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._errands = Errands("the call goes on at its next event")
        self._something_due = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._next_due: Alarm | None = None
        self._schedules = Schedules(journal, clock, lambda: presence.process, self.spawn, self.look)
        self._next_parking: Alarm | None = None
        self._next_removal: Alarm | None = None
        self._was_full = False
        self._all_gone: asyncio.Future[None] | None = None
        self.draining = False
        """No step begins any more."""

    # --- lifetime ---

    async def open(self) -> None:
        await self._offer()
        self._claiming = asyncio.get_running_loop().create_task(self._claim_forever(), context=Context())
        self.look()
        await self._remove_expired()

    async def drain(self, grace: float) -> None:
        """Give running steps their grace, then give every call back for a sibling or the next start."""
        self.draining = True
        self._schedules.close()
        until = asyncio.get_running_loop().time() + grace
        await self._stop_claiming(until)
        for alarm in (self._next_due, self._next_parking, self._next_removal):
            if alarm is not None:
                alarm.cancel()
        await self._let_steps_end(until)
        for call in list(self._live.values()):
            call.give_back()
        await self._see_them_off(GIVEN_BACK_WITHIN)
        self._errands.end()
        self.threads.end()

    async def _stop_claiming(self, until: float) -> None:
        """A claim on its way is let through: what it got would be nobody's until the process is gone."""
        if self._claiming is not None:
            self.look()
            await asyncio.wait({self._claiming}, timeout=until - asyncio.get_running_loop().time())
            self._claiming.cancel()

    async def _let_steps_end(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            running = [task for call in self._live.values() for task in call.steps_running]
            if not running:
                return
            await asyncio.wait(running, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    async def _see_them_off(self, patience: float) -> None:
        """Until all that is written about calls here is on disk, so that siblings can be told."""
        if self._live:
            self._all_gone = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._all_gone}, timeout=patience)

    def drop(self) -> None:
        """As a crash would: nothing is written, nothing is given back."""
        self.draining = True
        self._schedules.close()
        if self._claiming is not None:
            self._claiming.cancel()
        for alarm in (self._next_due, self._next_parking, self._next_removal):
            if alarm is not None:
                alarm.cancel()
        for call in list(self._live.values()):
            call.left = True
            call.abandon()
        self._live.clear()
        self._by_n.clear()
        self._errands.end()
        self.threads.end()

    # --- functions ---

    def runs(self, function: str) -> bool:
        return not self.draining and self._find(function) is not None

    def _find(self, name: str) -> Function | None:
        served = self._functions_served
        if served and served[-1] is not self._newest_read:  # registered since, perhaps in place of another
            self._read_functions()
        return self._functions.get(name)

    def _read_functions(self) -> None:
        for function in self._functions_served:
            for name in (function.name, *function.aliases):
                self._functions[name] = function
            if function.schedule is not None:
                self._schedules.add(function.name, function.schedule)
        self._newest_read = self._functions_served[-1] if self._functions_served else None

    async def _offer(self) -> None:
        self._read_functions()
        offered = frozenset(self._functions)
        await commit(self.journal, Offer(self.presence.process, offered, self.clock.now()))

    # --- calls in memory ---

    @property
    def live(self) -> dict[str, LiveCall]:
        return self._live

    def begin(self, held: Held, context: Context | None) -> None:
        """The first life of a call that was started here; its row is on disk."""
        call = self._load(held, context)
        if call is None:
            return
        try:
            call.begin()
        except Exception as error:
            log.exception("call %s cannot begin", call.call_id)
            call.stick(error, diverged=True)

    def go_on(self, held: Held) -> None:
        """A call that has a new journal; what came for it stayed."""
        self.begin(held, None)
        if (call := self._live.get(held.view.id)) is not None:
            call.look_soon()

    def _load(self, held: Held, context: Context | None) -> LiveCall | None:
        function = self._find(held.view.function)
        if function is None or self.draining:
            self._give_back(held, begun=False)
            return None
        run = function.run
        if isinstance(run, BodyFunction):
            call: LiveCall = BodyCall(self, held, function, run)
        else:
            call = WholeCall(self, held, function, run, context)
        if former := self._live.get(call.call_id):
            former.lose()  # it was released, and came back to us before we knew
        self._live[call.call_id] = call
        self._by_n[call.n] = call
        return call

    def forget(self, call: LiveCall) -> None:
        if self._live.get(call.call_id) is call:
            del self._live[call.call_id]
            del self._by_n[call.n]
            self._idle.pop(call.call_id, None)
            if self._all_gone is not None and not self._live and not self._all_gone.done():
                self._all_gone.set_result(None)
            if self._was_full:
                self._was_full = False
                self.look()

    def give_back_later(self, held: Held, *, begun: bool) -> None:
        """The storage refused a unit of the call: it is nobody's until its row says so, which is tried each second."""
        if not self.draining:
            self.clock.alarm(self.clock.now() + 1.0, lambda: self._give_back(held, begun=begun))

    def _give_back(self, held: Held, *, begun: bool) -> None:
        def tried(_: None, error: BaseException | None) -> None:
            if isinstance(error, StorageError):
                self.give_back_later(held, begun=begun)
            else:
                self.look()

        self.journal.write(Yield(held.n, held.epoch, begun), tried)

    # --- claiming ---

    def look(self) -> None:
        """Something may be due."""
        self._something_due.set()

    async def _claim_forever(self) -> None:
        while not self.draining:
            await self._something_due.wait()
            self._something_due.clear()
            try:
                await self._claim_due()
            except Exception:
                log.exception("cannot claim calls; trying again in a second")
                await asyncio.sleep(1)
                self.look()

    async def _claim_due(self) -> None:
        self._read_functions()
        functions = frozenset(self._functions)
        while room := self._room():
            limit = min(room, CLAIMED_AT_ONCE)
            claim = Claim(self.presence.process, functions, self.clock.now(), limit)
            claimed = await commit(self.journal, claim)
            for each in claimed:
                await self._begin_again(each)
            if claimed:  # what came in after the claim, for calls that were not there yet
                await self._look_at_arrived()
            if len(claimed) < limit:
                break
        if not self._was_full:  # whoever makes room looks again; what is due already would wake us without end
            self._wake_at(await self.journal.read(NextDue(functions)))

    async def _begin_again(self, claimed: Claimed) -> None:
        call = self._load(claimed.held, None)
        if call is None:
            return
        call.is_loading = True
        try:
            if claimed.unreadable is not None:
                raise claimed.unreadable
            await call.begin_again(claimed)
        except Exception as error:
            log.exception("call %s cannot be loaded", call.call_id)
            call.stick(error, diverged=True)
        finally:
            call.is_loading = False

    async def _look_at_arrived(self) -> None:
        for n in await self.journal.read(Arrived(self.presence.process)):
            if call := self._by_n.get(n):
                call.look_soon()

    def _room(self) -> int:
        if self.draining:
            return 0
        room = self._most_in_memory - len(self._live)
        if room <= 0:
            self._park_idle(1 - room)
            room = self._most_in_memory - sum(not call.left for call in self._live.values())
        self._was_full = room <= 0
        return max(room, 0)

    def _wake_at(self, when: float | None) -> None:
        if self._next_due is not None:
            self._next_due.cancel()
        self._next_due = None if when is None or self.draining else self.clock.alarm(when, self.look)

    # --- parking ---

    def idle(self, call: LiveCall) -> None:
        """Nothing of the call runs."""
        self._idle.pop(call.call_id, None)
        self._idle[call.call_id] = self.clock.now()
        if self._was_full:  # others wait for its room
            self._was_full = False
            self.look()
        if len(self._live) > self._most_in_memory:
            self._park_idle(len(self._live) - self._most_in_memory)
        elif self._next_parking is None and not self.draining:
            self._next_parking = self.clock.alarm(self.clock.now() + PARK_AFTER, self._park_stale)

    def _park_idle(self, count: int) -> None:
        """Make room, those first that have been idle for longest."""
        now = self.clock.now()
        while count > 0 and self._idle:
            call_id, _ = self._idle.popitem(last=False)
            call = self._live.get(call_id)
            # What is due would come back at once, and do nothing but come and go.
            if call is not None and call.is_idle and not call.is_due(now):
                call.park()
                count -= 1

    def _park_stale(self) -> None:
        self._next_parking = None
        now = self.clock.now()
        for call_id, since in list(self._idle.items()):
            if since > now - PARK_AFTER:
                self._next_parking = self.clock.alarm(since + PARK_AFTER, self._park_stale)
                return
            del self._idle[call_id]
            call = self._live.get(call_id)
            if call is None or not call.is_idle:
                continue
            wake_at = call.wake_at
            if wake_at is None or wake_at > now + PARK_AFTER:
                call.park()

    # --- what comes from elsewhere ---

    def wake(self, told: tuple[Delivered, ...]) -> None:
        """Something lies in these calls' inboxes, or what they show has changed."""
        for delivered in told:
            call = self._by_n.get(delivered.n)
            if delivered.changed is not None:
                self._changed(call, delivered.changed)
            elif call is not None:
                call.look_soon()
            elif delivered.owner is None:
                self.look()
                self.presence.tell_due()
            else:
                self.presence.tell_owner(delivered.owner)

    def _changed(self, call: LiveCall | None, call_id: str) -> None:
        if call is not None:
            call.look_at_questions_soon()
        else:
            self.spawn(self._show(call_id))

    async def _show(self, call_id: str) -> None:
        """To those who watch it, here and in other processes."""
        self.publish(await self.journal.read(View(call_id)))

    def call_started(self, call_id: str) -> None:
        """A call was made that nobody owns yet."""
        self.look()
        self.presence.tell_due()

    async def look_for_lost(self) -> None:
        """Drop what was released while we had it: whatever it still does here could not be written."""
        live = list(self._by_n.values())
        owned = await self.journal.read(Owned(self.presence.process))
        for call in live:
            if not call.left and (call.n, call.held.epoch) not in owned:
                call.lose()

    async def look_everywhere(self, arrived: Sequence[int]) -> None:
        """A hint may have been lost: look at what `arrived` in inboxes, and at what is due."""
        for n in arrived:
            call = self._by_n.get(n)
            if call is not None:
                call.look_soon()
        self.look()

    # --- what calls need ---

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._errands.run(coroutine)

    @property
    def is_ending(self) -> bool:
        """Also where nobody told the worker: a loop that ends cancels all its tasks, those of steps too."""
        return self.draining or (self._claiming is not None and self._claiming.cancelling() > 0)

    def log_failure(self, call_id: str, error: BaseException) -> None:
        log.info("call %s failed: %s: %s", call_id, type(error).__name__, error, extra={"perdure_call": call_id})

    def replay_differs(self, call_id: str, how: str) -> None:
        self.replay_differences.append(f"call {call_id}: {how}")
        log.error("call %s does not replay as it ran: %s", call_id, how)

    # --- retention ---

    async def _remove_expired(self) -> None:
        """Remove what was kept long enough, a small batch at a time."""
        pause = 60.0
        try:
            removed = await commit(self.journal, RemoveExpired(self.clock.now(), REMOVED_AT_ONCE))
            expiry = await self.journal.read(NextExpiry())
            if expiry is None:
                pause = 3600.0
            elif removed == REMOVED_AT_ONCE:
                pause = 0.1
            else:
                pause = max(expiry - self.clock.now(), pause)
        except StorageError as error:
            log.warning("cannot remove expired calls now: %s", error)
        if not self.draining:
            again = self.clock.now() + pause
            self._next_removal = self.clock.alarm(again, lambda: self.spawn(self._remove_expired()))
