"""This process among those that share the file: known to them, watched by one, watching the next."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from perdure.engines.embedded.clock import Clock
from perdure.engines.embedded.errands import Errands
from perdure.engines.embedded.hints import Hint, Hints
from perdure.engines.embedded.journal import Journal, Leave, Process, Processes, Register, TakeOver, commit
from perdure.engines.embedded.ownership import ProcessLock, Watch, forget, is_alive, successor
from perdure.errors import StorageError

log = logging.getLogger("perdure")

SIGN_OFF_WITHIN = 1.0
"""Seconds that a process on its way out waits to be forgotten in good order."""


class Presence(Protocol):
    """What a worker needs to know of the other processes."""

    process: int

    async def join(self) -> None: ...
    async def leave(self) -> None: ...
    async def look(self) -> None:
        """A hint may have been lost: somebody may have come or gone."""
        ...

    def tell_due(self) -> None:
        """Something became claimable."""
        ...

    def tell_owner(self, process: int) -> None:
        """Something lies in the inbox of a call of that process."""
        ...

    def tell_changed(self, call_id: str) -> None: ...


class Alone:
    """The only process there can be: the journal is in its memory."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.process = 0

    async def join(self) -> None:
        for former in await self._journal.read(Processes()):
            await commit(self._journal, TakeOver(former.id))
        self.process = await commit(self._journal, Register("memory", os.getpid(), 0, self._clock.now()))

    async def leave(self) -> None:
        await commit(self._journal, Leave(self.process))

    async def look(self) -> None: ...

    def tell_due(self) -> None: ...

    def tell_owner(self, process: int) -> None: ...

    def tell_changed(self, call_id: str) -> None: ...


class AmongOthers:
    """One of several: takes over from the dead, at its start and whenever the process that it watches dies."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        database: Path,
        *,
        on_due: Callable[[], None],
        on_changed: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._database = database
        self._on_due = on_due
        self._on_changed = on_changed
        self._hints = Hints(database)
        self._lock: ProcessLock | None = None
        self._watch: Watch | None = None
        self._watched = ""
        self._others: dict[int, Process] = {}
        self._changed: dict[str, None] = {}
        self._looking = asyncio.Lock()
        self._will_look = False
        self._errands = Errands("who else is there is looked at again soon")
        self.process = 0

    async def join(self) -> None:
        # Not in a thread: a cancellation would leave behind a lock that makes us look alive.
        self._lock = ProcessLock.hold(self._database)
        try:
            port = await self._hints.open(self._heard)
            self.process = await commit(self._journal, Register(self._lock.name, os.getpid(), port, self._clock.now()))
            await self._look_around()
        except BaseException:
            with suppress(StorageError):  # the first error is the one to hear of
                await self.leave()
            raise
        self._send_all(Hint("processes"))

    async def leave(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._errands.end()
        try:
            if self.process:
                await self._sign_off()
        finally:
            self._hints.close()
            if self._lock is not None:
                self._lock.release()

    async def _sign_off(self) -> None:
        # Where nothing can be written now, the siblings find us dead: a process that goes must not hang.
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGN_OFF_WITHIN):
                await commit(self._journal, Leave(self.process))
        self._send_all(Hint("processes"))
        self._send_all(Hint("due"))

    # --- who else is there ---

    async def look(self) -> None:
        known = {self.process, *self._others}
        if {process.id for process in await self._journal.read(Processes())} != known:
            await self._look_around()

    async def _look_around(self) -> None:
        """One look at a time, so that none overwrites what a later one saw; one more for all that came meanwhile."""
        if self._will_look:
            return
        self._will_look = True
        async with self._looking:
            self._will_look = False
            await self._look_at_each()

    async def _look_at_each(self) -> None:
        """Take over from every process that is dead, and watch the one that follows."""
        assert self._lock is not None
        own = self._lock.name
        alive: dict[int, Process] = {}
        for process in await self._journal.read(Processes()):
            if process.id == self.process:
                continue
            if await asyncio.to_thread(is_alive, self._database, process.name):
                alive[process.id] = process
            else:
                await self._take_over(process)
        self._others = alive
        strangers = {process.id: process.name for process in alive.values() if process.name != own}
        self._watch_next(strangers)

    async def _look_until_seen(self) -> None:
        while True:
            try:
                return await self._look_around()
            except StorageError as error:
                log.warning("cannot see which processes there are: %s Looking again in a second.", error)
                await asyncio.sleep(1)

    async def _take_over(self, dead: Process) -> None:
        await asyncio.to_thread(forget, self._database, dead.name)
        calls = await commit(self._journal, TakeOver(dead.id))
        if calls:
            log.warning("process %d died; taking over %d of its calls", dead.pid, calls)
            self._on_due()
            self.tell_due()

    def _watch_next(self, strangers: dict[int, str]) -> None:
        following = successor(self.process, strangers)
        name = "" if following is None else strangers[following]
        if name == self._watched:
            return
        if self._watch is not None:
            self._watch.stop()
        self._watch = None
        self._watched = name
        if name:
            loop = asyncio.get_running_loop()

            def died(_: str) -> None:
                with suppress(RuntimeError):  # the loop is closed: so are we
                    loop.call_soon_threadsafe(self._someone_died)

            self._watch = Watch(self._database, name, died)

    def _someone_died(self) -> None:
        self._watched = ""
        self._errands.run(self._look_until_seen())

    # --- hints ---

    def _heard(self, hint: Hint) -> None:
        match hint.kind:
            case "due":
                self._on_due()
            case "call":
                self._on_changed(hint.calls)
            case "processes" if self.process:  # who joins looks anyway
                self._errands.run(self._look_until_seen())
            case _:
                pass

    def tell_due(self) -> None:
        self._send_all(Hint("due"))

    def tell_owner(self, process: int) -> None:
        other = self._others.get(process)
        if other is not None:
            self._hints.send((other.port,), Hint("due"))
        else:
            self.tell_due()

    def tell_changed(self, call_id: str) -> None:
        if not self._others:
            return
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._send_changed)
        self._changed[call_id] = None

    def _send_changed(self) -> None:
        changed, self._changed = tuple(self._changed), {}
        self._send_all(Hint("call", changed))

    def _send_all(self, hint: Hint) -> None:
        ports: Iterable[int] = [process.port for process in self._others.values() if process.port]
        if ports:
            self._hints.send(ports, hint)
