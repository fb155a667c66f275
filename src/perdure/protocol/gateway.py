"""The way of a request: it becomes a call, waits for it, and gets what the call came to.

The gateway knows who waits for what. What a call does without anybody waiting is the engine's.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import timedelta
from typing import Any

from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    SubscriptionBus,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from perdure.core.commands import NotifyChange
from perdure.engine import Accepted, CallView, Cancel, Engine, Notice, Request, WholeStep
from perdure.errors import CallEnded, CallerUnknown, CallNotFound
from perdure.protocol.answer import failure_of
from perdure.protocol.callers import Caller
from perdure.protocol.conversation import Conversation, Nobody
from perdure.protocol.inputs import answers_in, give
from perdure.protocol.replies import Finished, Handoff, NeedsInput, Reply
from perdure.protocol.sdk import RequestContext
from perdure.protocol.seats import Seat, Seats
from perdure.protocol.sessions import SessionConversation
from perdure.protocol.stateless import Brought, StatelessConversation, brought_by, is_for
from perdure.protocol.waiting import Waiting
from perdure.protocol.wire import CancelNote, RequestRef, Wire, exchange, request_ref
from perdure.tool import Arguments, Durable

log = logging.getLogger("perdure")

IDEMPOTENCY_KEY = "io.perdure/idempotencyKey"
"""In a request's `_meta`."""

CALL_ID = "io.perdure/callId"
"""In the `data` of an error about a call."""

RESTARTING = -32000

UNHEARD = 256
"""Calls whose first words are kept while it is not known yet which requests started them."""


class Restarting(MCPError):
    """The server goes, and lets its requests go; the calls go on."""

    def __init__(self, call_id: str | None = None) -> None:
        again = "Ask again in a moment."
        if call_id is None:
            super().__init__(RESTARTING, f"The server restarts. {again}")
        else:
            message = f"The server restarts, the call goes on. {again} The same arguments get its result."
            super().__init__(RESTARTING, message, {CALL_ID: call_id})


class Gateway:
    """One per opening of an engine. `caller_of` tells of each request who sent it; `before_asking` raises where a
    client could not be given what it is to come back with: found out later, that would count as its answer."""

    def __init__(
        self,
        engine: Engine,
        *,
        adopt_within: timedelta,
        caller_of: Callable[[RequestContext | None], Caller],
        bus: SubscriptionBus,
        before_asking: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._is_open = True
        self._adopt_within = adopt_within
        self._caller_of = caller_of
        self._bus = bus
        self._before_asking = before_asking
        self._seats = Seats()
        self._attending: set[Waiting] = set()
        self._looking: set[asyncio.Timeout] = set()
        self._starting = 0
        self._unheard: dict[str, list[Notice]] = {}
        self._draining = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- the main path ---

    async def call(
        self,
        durable: Durable,
        arguments: Arguments,
        ctx: RequestContext | None,
        handoff: Handoff | None = None,
    ) -> Reply:
        """What the call has for the request. Raises what it failed with, fit for the SDK's own conversions."""
        if self._draining:
            raise Restarting()
        caller = self._caller_of(ctx)
        conversation = told_by(ctx, durable)
        brought = brought_by(ctx, durable)
        asks = conversation.asks if handoff is None else conversation.asks | handoff.answerable
        request = replace(self._request(durable, arguments, caller, ctx), asks=asks, resumes=brought.call_id)
        with _programs_exchange() if ctx is None else exchange(ctx) as wire:
            waiting = Waiting(conversation, handoff)
            seat = Seat(request, durable, caller, ctx and request_ref(ctx), waiting)
            reply = await self._wait(seat, wire, brought)
        if isinstance(reply, Finished) and reply.view.outcome is None:
            raise failure_of(reply.view)
        return reply

    def _request(self, durable: Durable, arguments: Arguments, caller: Caller, ctx: RequestContext | None) -> Request:
        idempotency_key = _idempotency_key(ctx)
        _check_identity(durable, caller, idempotency_key)
        return durable.request(
            arguments,
            caller=caller.id,
            principal=caller.principal,
            waiting=waiting_id(None if ctx is None else request_ref(ctx)),
            adopt_within=self._adopt_within,
            idempotency_key=idempotency_key,
            context=copy_context() if isinstance(durable.function.run, WholeStep) else None,
        )

    async def _wait(self, seat: Seat, wire: Wire, brought: Brought) -> Reply:
        try:
            call_id = await self._start(seat, wire)
            reply = await self._settled(seat.waiting, call_id, brought)
            if isinstance(reply, NeedsInput):
                self._before_asking()
        except Exception:
            self._told(seat, wire)
            raise
        finally:
            self._seats.leave(seat)
        if isinstance(reply, Finished) and reply.view.status == "stuck":
            self._told(seat, wire)
        return reply

    async def _settled(self, waiting: Waiting, call_id: str, brought: Brought) -> Reply:
        if not brought.responses:
            return await waiting.until_settled(self._engine, call_id)
        answered = set(await self._answer(call_id, brought.responses))
        while True:
            reply = await waiting.until_settled(self._engine, call_id, answered)
            # Without a state the answers are to what a new call is yet to ask.
            expected = isinstance(reply, NeedsInput) and brought.call_id is None
            news = set(await self._answer(call_id, brought.responses)) - answered if expected else ()
            if not news:
                return reply
            answered.update(news)

    async def _answer(self, call_id: str, responses: Mapping[str, Any]) -> list[str]:
        """Which of the call's questions the request has answered, now or before."""
        answers = answers_in(responses, (await self._engine.get(call_id)).questions)
        for answer in answers:
            await give(self._engine, call_id, answer)
        return [answer.name for answer in answers]

    def _told(self, seat: Seat, wire: Wire) -> None:
        """What the client gets is no answer of the call's: that is still to come, for whoever asks again."""
        seat.is_told = True
        if wire.is_over:  # its client may still get this over another connection
            self._let_go(seat.request, handed=False)
        wire.close(handed=False)

    async def attend(self, call_id: str, conversation: Conversation) -> CallView:
        """The call once it is settled, for a request that is not the one which it was made for."""
        if self._draining:
            raise Restarting(call_id)
        waiting = Waiting(conversation)
        self._attending.add(waiting)
        try:
            return (await waiting.until_settled(self._engine, call_id)).view
        finally:
            self._attending.discard(waiting)

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[None]:
        """Around what an ordinary request waits for: it ends with `Restarting` when the server goes."""
        if self._draining:
            raise Restarting()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._looking.add(scope)
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise Restarting() from None
        finally:
            self._looking.discard(scope)

    # --- coming and going ---

    async def _start(self, seat: Seat, wire: Wire) -> str:
        """The id of the request's call. A client that leaves meanwhile leaves a call, and may want it stopped."""
        note = self._seats.expect(seat)
        if note is not None:
            self._heard(seat, note)
        accepting = asyncio.get_running_loop().create_task(self._accept(seat, wire))
        self._tasks.add(accepting)
        accepting.add_done_callback(self._tasks.discard)
        return await asyncio.shield(accepting)

    async def _accept(self, seat: Seat, wire: Wire) -> str:
        self._starting += 1
        try:
            accepted = await self._engine.start(seat.request)
        except BaseException:
            self._seats.forget(seat)
            raise
        finally:
            self._starting -= 1
        self._take(seat, accepted, wire)
        return accepted.call_id

    def _take(self, seat: Seat, accepted: Accepted, wire: Wire) -> None:
        self._seats.take(seat, accepted.call_id)
        for notice in self._unheard.pop(accepted.call_id, ()) if accepted.how == "new" else ():
            seat.waiting.tell(notice.what)
        if not self._starting:
            self._unheard.clear()
        if self._draining:
            seat.waiting.stop(Restarting(seat.call_id))
        wire.on_close(lambda _: self._closed(seat, wire))
        if seat.wish is not None:
            self._cancel(seat, seat.wish)

    def _closed(self, seat: Seat, wire: Wire) -> None:
        """The request is over for its client: answered, or left."""
        resumable = seat.ref is not None and seat.ref.is_of_session and not seat.is_told
        self._let_go(seat.request, handed=wire.handed, resumable=resumable)
        if wire.handed or seat.is_told:
            self._seats.forget(seat)
            return
        self._seats.remember(seat)
        if wire.gone:
            self._disconnected(seat)

    def _disconnected(self, seat: Seat) -> None:
        """Its client has left, or a clock of the client's has run out. A server that ends is no client that leaves."""
        if seat.durable.options.on_disconnect == "cancel" and not self._draining:
            self._cancel(seat, "the client disconnected")

    def _let_go(self, request: Request, *, handed: bool, resumable: bool = False) -> None:
        if self._is_open and request.waiting is not None:  # closed: nobody will know, which counts as not handed
            self._engine.let_go(request.waiting, handed=handed, resumable=resumable)

    # --- what clients say about requests ---

    def cancelled(self, note: CancelNote) -> None:
        """A client no longer wants an answer; whether it wants the call stopped, its reason tells."""
        seat = self._seats.named(note.request)
        if seat is None:
            self._seats.note_early(note)
        else:
            self._heard(seat, note)

    def _heard(self, seat: Seat, note: CancelNote) -> None:
        if note.is_wanted:
            self._cancel(seat, note.reason)
        else:
            self._disconnected(seat)

    def session_ended(self, session: str) -> None:
        """A client ended its session, and left whatever it had asked there."""
        for seat in self._seats.of_peer(session):
            self._disconnected(seat)

    def resumed(self, ref: RequestRef) -> None:
        """A request that had lost its connection was answered over another one, perhaps one of an earlier process."""
        seat = self._seats.named(ref)
        if seat is not None:
            self._seats.forget(seat)
        if self._is_open and ref.is_of_session and (seat is None or not seat.is_told):
            self._engine.let_go(waiting_id(ref), handed=True)

    def _cancel(self, seat: Seat, reason: str) -> None:
        if seat.call_id is None:
            seat.wish = seat.wish or reason
            return
        if seat.is_cancelled or not self._is_open:
            return
        if seat.durable.options.shared and seat.caller.id is None:
            return  # a nobody has no hold of its own to let go of
        seat.is_cancelled = True
        self._spawn(self._deliver(seat.call_id, Cancel(reason, seat.caller.id)))

    async def _deliver(self, call_id: str, cancel: Cancel) -> None:
        with suppress(CallEnded, CallNotFound):  # it was faster
            await self._engine.deliver(call_id, cancel)

    # --- what calls say to clients ---

    def notice(self, notice: Notice) -> None:
        """A body said something, and that it did is on disk."""
        if isinstance(notice.what, NotifyChange):
            self._spawn(self._bus.publish(event_of(notice.what)))
        seats = self._seats.at(notice.call_id)
        for seat in seats:
            seat.waiting.tell(notice.what)
        if self._starting and not seats:
            self._unheard.setdefault(notice.call_id, []).append(notice)
            if len(self._unheard) > UNHEARD:
                del self._unheard[next(iter(self._unheard))]

    # --- the end ---

    def drain(self) -> None:
        """Let every request go, with an error that says to ask again; the calls go on."""
        self._draining = True
        for seat in self._seats:
            seat.waiting.stop(Restarting(seat.call_id))
        for waiting in self._attending:
            waiting.stop(Restarting())
        for scope in self._looking:
            if not scope.expired():
                scope.reschedule(0)

    async def close(self) -> None:
        """Nobody waits any more, and what was to be delivered is."""
        self.drain()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def engine_closed(self) -> None:
        self._is_open = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: a request's would keep its token alive.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message about a call could not be delivered", exc_info=error)


@contextmanager
def _programs_exchange() -> Generator[Wire]:
    """A program's answer is handed when it returns."""
    wire = Wire()
    try:
        yield wire
    except asyncio.CancelledError:
        wire.leave()
        raise
    finally:
        wire.close(handed=True)


def told_by(ctx: RequestContext | None, durable: Durable) -> Conversation:
    """The way in which a request's client is talked to."""
    if ctx is None:
        return Nobody()
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return StatelessConversation(ctx, is_lent=not is_for(ctx, durable))
    return SessionConversation(ctx)


def event_of(change: NotifyChange) -> ServerEvent:
    match change.what:
        case "tools":
            return ToolsListChanged()
        case "prompts":
            return PromptsListChanged()
        case "resources":
            return ResourcesListChanged()
        case "resource":
            return ResourceUpdated(uri=change.uri or "")


def waiting_id(ref: RequestRef | None) -> str:
    """What a request is called that waits. One of a session is found again under it by another process."""
    if ref is None or not ref.is_of_session:
        return secrets.token_hex(16)
    return hashlib.sha256(f"{ref.peer} {ref.request_id!r}".encode()).hexdigest()[:32]


def _idempotency_key(ctx: RequestContext | None) -> str | None:
    if ctx is None or not ctx.meta:
        return None
    key: Any = ctx.meta.get(IDEMPOTENCY_KEY)
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= 256):
        raise MCPError(INVALID_PARAMS, f"_meta[{IDEMPOTENCY_KEY!r}] must be a text of 1 to 256 characters")
    return key


def _check_identity(durable: Durable, caller: Caller, idempotency_key: str | None) -> None:
    """Refuse what only somebody can have: ignoring a key would do the same twice."""
    if caller.id is not None:
        return
    if idempotency_key is not None:
        raise CallerUnknown(durable.name, "An idempotency key")
    if durable.key_of is not None and not durable.options.shared:
        raise CallerUnknown(durable.name, "The key")
