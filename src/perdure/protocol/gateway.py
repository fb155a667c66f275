"""The way of a request: it becomes a call, waits for it, and gets what the call came to.

The gateway knows who waits for what. What a call does without anybody waiting is the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
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
from perdure.engine import CallView, Cancel, Engine, Notice, WholeStep
from perdure.errors import CallEnded, CallerUnknown, CallNotFound
from perdure.protocol.answer import failure_of
from perdure.protocol.callers import MACHINE, Caller, Doors, caller_of
from perdure.protocol.conversation import Conversation, Nobody
from perdure.protocol.sdk import RequestContext
from perdure.protocol.sessions import SessionConversation
from perdure.protocol.stateless import StatelessConversation
from perdure.protocol.waiting import Waiting
from perdure.protocol.wire import CancelNote, RequestRef, Wire, exchange, request_ref
from perdure.tool import Arguments, Durable

log = logging.getLogger("perdure")

IDEMPOTENCY_KEY = "io.perdure/idempotencyKey"
"""In a request's `_meta`."""

CALL_ID = "io.perdure/callId"
"""In the `data` of an error about a call."""

RESTARTING = -32000

REMEMBERED = 4096
"""Requests whose client has left, and whose cancellation, or answer over a resumed stream, may still come."""


@dataclass(slots=True)
class _Seat:
    """A request at a call; it is given up once."""

    request: str
    call_id: str
    durable: Durable
    caller: Caller
    ref: RequestRef | None
    waiting: Waiting


class Gateway:
    """One per opening of an engine. `doors` tells how requests reach the server; it is asked anew for each."""

    def __init__(
        self, engine: Engine, *, adopt_within: timedelta, doors: Callable[[], Doors], bus: SubscriptionBus
    ) -> None:
        self._engine = engine
        self._is_open = True
        self._adopt_within = adopt_within
        self._doors = doors
        self._bus = bus
        self._seats: dict[str, list[_Seat]] = {}
        self._by_ref: OrderedDict[RequestRef, _Seat] = OrderedDict()
        self._starting = 0
        self._unheard: dict[str, list[Notice]] = {}
        """What calls said while it was not yet known here which request started them."""
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the main path ---

    async def call(self, durable: Durable, arguments: Arguments, ctx: RequestContext | None) -> bytes:
        """What the call returned, as it is recorded. Raises what it failed with, fit for the SDK's own conversions."""
        if self._draining:
            raise restarting(None)
        caller = self.caller(ctx)
        idempotency_key = _idempotency_key(ctx)
        _check_identity(durable, caller, idempotency_key)
        request = durable.request(
            arguments,
            caller=caller.id,
            principal=caller.principal,
            waiting=secrets.token_hex(16),
            adopt_within=self._adopt_within,
            idempotency_key=idempotency_key,
            context=copy_context() if isinstance(durable.function.run, WholeStep) else None,
        )
        assert request.waiting is not None
        with nullcontext(Wire()) if ctx is None else exchange(ctx) as wire:
            waiting = Waiting(conversation_with(ctx))
            with self._being_started(request.waiting):
                accepted = await self._engine.start(request)
            ref = None if ctx is None else request_ref(ctx)
            seat = _Seat(request.waiting, accepted.call_id, durable, caller, ref, waiting)
            self._take(seat, wire, is_new=accepted.how == "new")
            try:
                view = await waiting.until_over(self._engine, seat.call_id)
            except MCPError:
                wire.close(handed=False)  # an answer about the server, and not the call's
                raise
            finally:
                self._leave(seat)
            if ctx is None:
                wire.close(handed=True)
            return self._outcome(view, wire)

    def _outcome(self, view: CallView, wire: Wire) -> bytes:
        if view.status == "completed":
            assert view.outcome is not None
            return view.outcome
        if view.status == "stuck":
            wire.close(handed=False)  # it may still come to an end, and that is its answer
        raise failure_of(view)

    # --- who asks ---

    def caller(self, ctx: RequestContext | None) -> Caller:
        return MACHINE if ctx is None else caller_of(ctx, self._doors())

    # --- seats ---

    @contextmanager
    def _being_started(self, request: str) -> Generator[None]:
        self._starting += 1
        try:
            yield
        except asyncio.CancelledError:
            self._let_go(request, handed=False)  # it may have been accepted all the same
            raise
        finally:
            self._starting -= 1

    def _take(self, seat: _Seat, wire: Wire, *, is_new: bool) -> None:
        self._seats.setdefault(seat.call_id, []).append(seat)
        if seat.ref is not None:
            self._by_ref[seat.ref] = seat
            while len(self._by_ref) > REMEMBERED:
                self._by_ref.popitem(last=False)
        for notice in self._unheard.pop(seat.call_id, ()) if is_new else ():
            seat.waiting.tell(notice.what)
        if not self._starting:
            self._unheard.clear()
        wire.on_close(lambda handed: self._closed(seat, handed))

    def _leave(self, seat: _Seat) -> None:
        seats = self._seats[seat.call_id]
        seats.remove(seat)
        if not seats:
            del self._seats[seat.call_id]

    def _closed(self, seat: _Seat, handed: bool) -> None:
        """The request is over for its client: answered, or left."""
        self._let_go(seat.request, handed=handed)
        if handed:
            self._forget(seat)
        elif seat.durable.options.on_disconnect == "cancel" and not self._draining:
            self._cancel(seat, "the client disconnected")

    def _forget(self, seat: _Seat) -> bool:
        """Whether it was still known: each request is cancelled once at most."""
        if seat.ref is None:
            return False
        return self._by_ref.pop(seat.ref, None) is not None

    def _let_go(self, request: str, *, handed: bool) -> None:
        if self._is_open:  # else nobody knows any more, which counts as not handed
            self._engine.let_go(request, handed=handed)

    # --- what clients say about requests ---

    def cancelled(self, note: CancelNote) -> None:
        """A client no longer wants an answer; whether it wants the call stopped, its reason tells."""
        seat = self._by_ref.get(note.request)
        if seat is not None and note.is_wanted:
            self._cancel(seat, note.reason)

    def resumed(self, ref: RequestRef) -> None:
        """A request that had lost its connection was answered over another one."""
        seat = self._by_ref.pop(ref, None)
        if seat is not None:
            self._let_go(seat.request, handed=True)

    def _cancel(self, seat: _Seat, reason: str) -> None:
        if not self._forget(seat) or not self._is_open:
            return
        shared = seat.durable.options.shared
        if shared and seat.caller.id is None:
            return  # a nobody has no hold of its own to let go of
        cancel = Cancel(reason, seat.caller.id if shared else None)
        self._spawn(self._deliver(seat.call_id, cancel))

    async def _deliver(self, call_id: str, cancel: Cancel) -> None:
        with suppress(CallEnded, CallNotFound):  # it was faster
            await self._engine.deliver(call_id, cancel)

    # --- what calls say to clients ---

    def notice(self, notice: Notice) -> None:
        """A body said something, and that it did is on disk."""
        if isinstance(notice.what, NotifyChange):
            self._spawn(self._bus.publish(event_of(notice.what)))
        seats = self._seats.get(notice.call_id)
        if seats is not None:
            for seat in seats:
                seat.waiting.tell(notice.what)
        elif self._starting:
            self._unheard.setdefault(notice.call_id, []).append(notice)

    # --- the end ---

    def drain(self) -> None:
        """Let every request go, with an error that says to ask again; the calls go on."""
        self._draining = True
        for seats in list(self._seats.values()):
            for seat in seats:
                seat.waiting.stop(restarting(seat.call_id))

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


def conversation_with(ctx: RequestContext | None) -> Conversation:
    if ctx is None:
        return Nobody()
    return (StatelessConversation if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else SessionConversation)(ctx)


def restarting(call_id: str | None) -> MCPError:
    if call_id is None:
        return MCPError(code=RESTARTING, message="The server restarts. Ask again in a moment.")
    message = "The server restarts; the call goes on. Ask again with the same arguments to get its result."
    return MCPError(code=RESTARTING, message=message, data={CALL_ID: call_id})


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
