"""The embedded engine: `engine.Engine` over a journal, a worker and the other processes of the file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from anyio import CancelScope

from perdure.core.call import PYTHON, new_call_id, new_seed
from perdure.core.events import Event
from perdure.engine import (
    Accepted,
    Answer,
    CallFacts,
    CallView,
    Delivery,
    Function,
    GetEntry,
    ListEntries,
    Notice,
    Page,
    Query,
    Request,
    StoreOperation,
    StoreReply,
    TimelineEntry,
)
from perdure.engine import Clock as RequestClock
from perdure.engines.embedded.clock import Clock, SystemClock
from perdure.engines.embedded.collector import spared
from perdure.engines.embedded.errands import Errands
from perdure.engines.embedded.journal import (
    Arrived,
    Deliver,
    FindCalls,
    HolderOf,
    Journal,
    LetGo,
    LookIntoStore,
    ReadRecord,
    ReleaseCall,
    RetryCall,
    StartCall,
    Started,
    UseStoreOnce,
    View,
    commit,
)
from perdure.engines.embedded.ledger import PAYLOAD_LIMIT
from perdure.engines.embedded.memory import MemoryJournal
from perdure.engines.embedded.moment import moment
from perdure.engines.embedded.presence import Alone, AmongOthers, Presence
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.engines.embedded.timeline import timeline
from perdure.engines.embedded.watchdog import Watchdog
from perdure.engines.embedded.watching import Watchers
from perdure.engines.embedded.worker import Worker
from perdure.errors import CallNotFound, StorageError

log = logging.getLogger("perdure")

GRACE = timedelta(seconds=1.5)
"""What running steps get on the way out: stdio clients kill after 2 s (PROTOCOL, runners)."""

POLL = 1.0
"""Seconds between two looks at whether another process committed; covers hints that were lost."""


@dataclass(frozen=True, slots=True)
class Settings:
    payload_limit: int = PAYLOAD_LIMIT
    grace: timedelta = GRACE
    threads: int = 40
    concurrent_steps: int = 1000
    bodies_in_memory: int = 10_000


class Embedded:
    """The engine in one SQLite file, with its settings; `memory:` keeps everything in this process.

    `durability="full"` loses nothing acknowledged at a power loss; `"relaxed"` may lose the last commits, and
    never the file. `grace` is what running steps get when the server goes. `threads` run sync steps.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Literal["full", "relaxed"] = "full",
        payload_limit: int = PAYLOAD_LIMIT,
        grace: timedelta = GRACE,
        threads: int = 40,
        concurrent_steps: int = 1000,
        bodies_in_memory: int = 10_000,
    ) -> None:
        self.path = None if str(path) == "memory:" else Path(path).expanduser().absolute()
        self.durability: Literal["full", "relaxed"] = durability
        self.settings = Settings(payload_limit, grace, threads, concurrent_steps, bodies_in_memory)
        self.make_clock: Callable[[], Clock] = SystemClock
        """Trials have a clock of their own."""
        self._memory: MemoryJournal | None = None
        self._serving: dict[asyncio.AbstractEventLoop, _Serving] = {}

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"stores", "signals", "children", "deadlines"})

    @property
    def request_clock(self) -> RequestClock:
        return self._here.clock

    def __repr__(self) -> str:
        return f"Embedded({str(self.path or 'memory:')!r})"

    @asynccontextmanager
    async def serve(
        self,
        functions: Sequence[Function],
        *,
        work: bool = True,
        notices: Callable[[Notice], None] | None = None,
        around: AbstractAsyncContextManager[Any] | None = None,
    ) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        if loop in self._serving:
            raise RuntimeError(f"{self!r} is served already on this event loop; give each server an engine of its own")
        clock = self.make_clock()
        serving = _Serving(self._journal(), clock, self.path, self.settings)
        self._serving[loop] = serving
        try:
            await serving.open(notices)
            try:
                async with around or nullcontext():
                    try:
                        await serving.begin_work(functions if work else None)
                        with nullcontext() if self.path is None else spared:
                            yield
                    finally:
                        await _to_its_end(serving.end_work())
            finally:
                await _to_its_end(serving.close())
        finally:
            clock.close()
            del self._serving[loop]

    def _journal(self) -> Journal:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return SqliteJournal(self.path, durability=self.durability, payload_limit=self.settings.payload_limit)
        if self._memory is None:
            self._memory = MemoryJournal(payload_limit=self.settings.payload_limit)
        return self._memory

    async def crash(self) -> None:
        """Lose everything that is not in the journal, and recover; for trials, which then go on waiting."""
        await self._here.crash()

    @property
    def worker(self) -> Worker | None:
        """The worker on this event loop, for trials and benches."""
        return self._here.worker

    # --- the Engine protocol, by whoever serves on this loop ---

    @property
    def _here(self) -> _Serving:
        serving = self._serving.get(asyncio.get_running_loop())
        if serving is None:
            raise RuntimeError(
                "The engine is not open here. Run the server, or use `async with mcp.serving(work=False):`."
            )
        return serving

    async def start(self, request: Request) -> Accepted:
        return await self._here.start(request)

    def let_go(self, request: str, *, handed: bool, resumable: bool = False) -> None:
        self._here.let_go(request, handed=handed, resumable=resumable)

    async def get(self, call_id: str) -> CallView:
        return await self._here.get(call_id)

    def watch(self, call_id: str, after: int = -1) -> AsyncIterator[CallView]:
        return self._here.watch(call_id, after)

    async def deliver(self, call_id: str, delivery: Delivery) -> None:
        await self._here.deliver(call_id, delivery)

    async def find(self, query: Query) -> Page:
        return await self._here.journal.read(FindCalls(query))

    async def lookup(self, tool: str, key: str, caller: str | None = None) -> CallView | None:
        return await self._here.journal.read(HolderOf(tool, key, caller))

    async def timeline(self, call_id: str) -> list[TimelineEntry]:
        return await self._here.timeline(call_id)

    async def journal(self, call_id: str) -> list[Event]:
        return list((await self._here.journal.read(ReadRecord(call_id))).events)

    async def arguments(self, call_id: str) -> bytes:
        return (await self._here.journal.read(ReadRecord(call_id))).arguments

    async def facts(self, call_id: str) -> CallFacts:
        record = await self._here.journal.read(ReadRecord(call_id))
        return CallFacts(call_id, record.view.tool, record.caller, record.principal)

    async def retry(self, call_id: str) -> Accepted:
        return await self._here.retry(call_id)

    async def release(self, call_id: str) -> None:
        await self._here.release(call_id)

    async def store(self, store: str, operation: StoreOperation) -> StoreReply:
        match operation:
            case GetEntry() | ListEntries():
                return await self._here.journal.read(LookIntoStore(store, operation))
            case _:
                return await commit(self._here.journal, UseStoreOnce(store, operation))


class _Serving:
    """The engine on one event loop, from its opening to its end."""

    def __init__(self, journal: Journal, clock: Clock, database: Path | None, settings: Settings) -> None:
        self.journal = journal
        self.clock = clock
        self._settings = settings
        self._watchers = Watchers()
        self._worker: Worker | None = None
        self._functions: Sequence[Function] | None = None
        self._notices = _nobody_listens
        self._errands = Errands("what other processes did is looked at again soon")
        self._presence: Presence
        if database is None:
            self._presence = Alone(journal, clock)
        else:
            self._presence = AmongOthers(
                journal, clock, database, on_due=self._something_elsewhere, on_changed=self._changed_elsewhere
            )
        self._shared = database is not None

    # --- lifetime ---

    async def open(self, notices: Callable[[Notice], None] | None) -> None:
        self._notices = notices or _nobody_listens
        await self.journal.open()
        try:
            await self._presence.join()
            if self._shared:
                self._errands.run(self._poll())
        except BaseException:
            await self.journal.close()
            raise

    async def begin_work(self, functions: Sequence[Function] | None) -> None:
        self._functions = functions
        if functions is not None:
            self._worker = self._make_worker(functions)
            await self._worker.open()

    def _make_worker(self, functions: Sequence[Function]) -> Worker:
        settings = self._settings
        return Worker(
            self.journal,
            self.clock,
            self._presence,
            Watchdog(),
            functions,
            publish=self._publish,
            notify=self._notices,
            threads=settings.threads,
            concurrent_steps=settings.concurrent_steps,
            bodies_in_memory=settings.bodies_in_memory,
            payload_limit=settings.payload_limit,
        )

    async def end_work(self) -> None:
        if self._worker is not None:
            await self._worker.drain(self._settings.grace.total_seconds())
            self._worker = None
            self._presence.tell_due()

    async def close(self) -> None:
        self._errands.end()
        try:
            await self._presence.leave()
        finally:
            await self.journal.close()

    async def crash(self) -> None:
        if self._shared:
            raise RuntimeError("Only an engine in memory can crash and live; kill the process of one with a file.")
        if self._worker is not None:
            self._worker.drop()
        await self.journal.open()
        await self._presence.join()
        await self.begin_work(self._functions)
        # What the last life wrote and told nobody, above all the ends of calls.
        await self._refresh(tuple(self._watchers.call_ids))

    @property
    def worker(self) -> Worker | None:
        return self._worker

    # --- requests ---

    async def start(self, request: Request) -> Accepted:
        worker = self._worker
        own = worker is not None and request.after is None and worker.runs(request.function)
        started: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()

        def decided(result: Started, error: BaseException | None) -> None:
            if error is None:
                if result.held is not None and worker is not None:
                    worker.begin(result.held, request.context)
                elif result.accepted.how == "new":
                    self._look()
                if not started.done():
                    started.set_result(result.accepted)
            elif not started.done():
                started.set_exception(error)

        write = StartCall(
            request=request,
            call_id=request.call_id or new_call_id(),
            process=self._presence.process,
            own=own,
            at=self.clock.now(),
            seed=new_seed(),
            python=PYTHON,
        )
        self.journal.write(write, decided)
        return await started

    def let_go(self, request: str, *, handed: bool, resumable: bool) -> None:
        self.journal.write_soon(LetGo(request, handed, resumable))

    async def deliver(self, call_id: str, delivery: Delivery) -> None:
        delivered = await commit(self.journal, Deliver(call_id, delivery, self.clock.now()))
        told = delivered.parents if delivered.ended else (delivered, *delivered.parents)
        if self._worker is not None:
            if isinstance(delivery, Answer) and (call := self._worker.live.get(call_id)) is not None:
                call.look_at_questions_soon()  # whoever looks next need not be asked this
            self._worker.wake(told)
        else:
            for each in told:
                if each.changed is not None:
                    self._publish(await self.journal.read(View(each.changed)))
                else:
                    self._presence.tell_due() if each.owner is None else self._presence.tell_owner(each.owner)
        if delivered.ended:
            self._publish(await self.journal.read(View(call_id)))

    async def retry(self, call_id: str) -> Accepted:
        write = RetryCall(call_id, new_call_id(), self.clock.now(), new_seed(), PYTHON)
        accepted = await commit(self.journal, write)
        self._look()
        return accepted

    async def release(self, call_id: str) -> None:
        own = None if self._worker is None else self._worker.live.get(call_id)
        await commit(self.journal, ReleaseCall(call_id))
        if own is not None:
            own.lose()
        self._presence.tell_changed(call_id)  # an owner elsewhere lets go of it, once it hangs no more
        self._look()

    # --- views ---

    async def get(self, call_id: str) -> CallView:
        if self._worker is None or (call := self._worker.live.get(call_id)) is None:
            return await self.journal.read(View(call_id))
        view = await call.newest_view()
        if call.caller is None:
            # Who holds a shared call is known to the journal alone: others join it in other processes.
            return replace(view, callers=(await self.journal.read(View(call_id))).callers)
        return view

    async def timeline(self, call_id: str) -> list[TimelineEntry]:
        record = await self.journal.read(ReadRecord(call_id))
        call = None if self._worker is None else self._worker.live.get(call_id)
        wake_at = None if call is None or call.left or not call.is_idle else call.wake_at
        return timeline(record, None if wake_at is None else moment(wake_at))

    def watch(self, call_id: str, after: int) -> AsyncIterator[CallView]:
        return self._watchers.watch(call_id, after, self.get)

    def _publish(self, view: CallView) -> None:
        self._watchers.publish(view)
        self._presence.tell_changed(view.id)

    # --- other processes ---

    def _look(self) -> None:
        if self._worker is not None:
            self._worker.look()
        self._presence.tell_due()

    def _something_elsewhere(self) -> None:
        if self._worker is not None:
            self._errands.run(self._look_everywhere())

    async def _look_everywhere(self) -> None:
        if self._worker is not None:
            await self._worker.look_everywhere(await self.journal.read(Arrived(self._presence.process)))

    def _changed_elsewhere(self, call_ids: tuple[str, ...]) -> None:
        watched = {*self._watchers.call_ids}
        owned = self._worker.live if self._worker is not None else {}
        if not owned.keys().isdisjoint(call_ids):  # nobody else speaks of a call that is ours
            for call_id in owned.keys() & {*call_ids}:
                owned[call_id].look_at_questions_soon()
            self._errands.run(self._look_for_lost())
        elif seen := [call_id for call_id in call_ids if call_id in watched]:
            self._errands.run(self._refresh(seen))

    async def _look_for_lost(self) -> None:
        if self._worker is not None:
            await self._worker.look_for_lost()
        await self._refresh(tuple(self._watchers.call_ids))

    async def _refresh(self, call_ids: Sequence[str]) -> None:
        for call_id in call_ids:
            if self._worker is not None and (call := self._worker.live.get(call_id)) is not None:
                call.look_at_questions_soon()
                continue
            try:
                self._watchers.publish(await self.journal.read(View(call_id)))
            except CallNotFound as gone:
                self._watchers.lose(gone)

    async def _poll(self) -> None:
        changed = False
        while True:
            await asyncio.sleep(POLL)
            try:
                changed = self.journal.changed_elsewhere or changed
                if changed:
                    await self._presence.look()
                    await self._look_for_lost()
                    await self._look_everywhere()
                    changed = False
            except StorageError as error:
                log.warning("cannot see what other processes did: %s Looking again in a second.", error)
            except Exception:
                log.exception("cannot see what other processes did; looking again in a second")


async def _to_its_end(leaving: Coroutine[Any, Any, None]) -> None:
    """Also when we are cancelled: by asyncio once, by a scope of anyio until we have left it."""
    task = asyncio.get_running_loop().create_task(leaving)
    with CancelScope(shield=True):
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise


def _nobody_listens(notice: Notice) -> None:
    log.debug("nobody listens to %s of call %s", type(notice.what).__name__, notice.call_id)


def open_embedded(where: str | Path) -> Embedded:
    """From a path, `memory:`, or `sqlite:///PATH?durability=relaxed&grace=5` (seconds)."""
    if isinstance(where, Path) or not where.startswith("sqlite:"):
        return Embedded(where)
    parts = urlsplit(where)
    path = unquote(parts.path)
    # sqlite:///relative and sqlite:////absolute, as SQLAlchemy has made familiar
    engine = Embedded(path[1:] if path.startswith("/") else path)
    for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items():
        _apply_setting(engine, name, values[-1])
    return engine


def _apply_setting(engine: Embedded, name: str, value: str) -> None:
    match name:
        case "durability":
            if value not in ("full", "relaxed"):
                raise ValueError(f"durability is 'full' or 'relaxed', not {value!r}")
            engine.durability = value
        case "grace":
            engine.settings = replace(engine.settings, grace=timedelta(seconds=float(value)))
        case "payload_limit" | "threads" | "concurrent_steps" | "bodies_in_memory":
            engine.settings = replace(engine.settings, **{name: int(value)})
        case _:
            raise ValueError(f"The embedded engine has no setting {name!r}")
