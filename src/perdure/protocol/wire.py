"""What became of an answer: whether a request's client is still there, and what it said when it gave up.

The handler's return is not the client's receipt: of the four HTTP modes only one cancels the handler when the
client goes, the others drop the answer in silence.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, REQUEST_CANCELLED
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.message import ServerMessageMetadata
from mcp_types import DEFAULT_NEGOTIATED_VERSION, RequestId
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.protocol import sdk

# --- one request ----------------------------------------------------------------------------------


class Wire:
    """The way back of one request. It is over once: with its answer handed, or without."""

    __slots__ = ("_attend", "_callbacks", "_left", "gone", "handed", "is_over")

    def __init__(self, attend: Callable[[], None] | None = None) -> None:
        self.gone = False
        """The client has left. A request may also be over because the server, or its session, ended it."""
        self.handed = False
        """The last byte of the answer was given to the transport while the client was still there."""
        self.is_over = False
        self._callbacks: list[Callable[[bool], None]] = []
        self._left: asyncio.Event | None = None
        self._attend = attend

    def on_close(self, callback: Callable[[bool], None]) -> None:
        """Have `callback(handed)` called once, when it is over; at once if it is."""
        if self.is_over:
            callback(self.handed)
            return
        self._callbacks.append(callback)
        if self._attend is not None:
            self._attend()

    async def wait_gone(self) -> None:
        """Wait until the client has left; for ever, once it is over otherwise."""
        if self.gone:
            return
        if self._left is None:
            self._left = asyncio.Event()
        if self._attend is not None:
            self._attend()
        await self._left.wait()

    def leave(self) -> None:
        """The client has left. Once it is over that means nothing."""
        if self.is_over:
            return
        self.gone = True
        if self._left is not None:
            self._left.set()
        self.close(handed=False)

    def close(self, *, handed: bool) -> None:
        """Settle it; the first word counts. A server that sends something which is no answer says so before."""
        if self.is_over:
            return
        self.is_over = True
        self.handed = handed
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(handed)


@dataclass(kw_only=True)
class StdioMessage(ServerMessageMetadata):
    """What our stdio transport attaches to each message; a request has a wire."""

    wire: Wire | None = None


def wire_of(ctx: sdk.RequestContext) -> Wire | None:
    """The transport's view of this request; None in memory, and under transports that are not ours."""
    if ctx.request is not None:
        return ctx.request.scope.get("perdure.wire")
    metadata = sdk.metadata_of(ctx)
    return metadata.wire if isinstance(metadata, StdioMessage) else None


@contextmanager
def exchange(ctx: sdk.RequestContext) -> Generator[Wire]:
    """Answer a request inside: a handler that is cancelled hands nothing, whatever is sent for it then.

    Where no transport of ours looks on, an answer is handed when the handler ends uncancelled.
    """
    seen = wire_of(ctx)
    wire = Wire() if seen is None else seen
    try:
        yield wire
    except asyncio.CancelledError:
        # Our transports know better who left: there a handler may be cancelled because the server ends.
        if seen is None and not sdk.cancel_was_requested(ctx):
            wire.leave()
        wire.close(handed=False)
        raise
    finally:
        if seen is None:
            wire.close(handed=True)


# --- cancellations --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestRef:
    """A request, as both itself and the cancellation of it can be told: an id is unique per peer only."""

    peer: str
    request_id: RequestId

    @property
    def is_of_session(self) -> bool:
        """Its peer is a session of HTTP, which outlives connections. Ids of sessions have no spaces, other peers do."""
        return " " not in self.peer


@dataclass(frozen=True, slots=True)
class CancelNote:
    """A client said that it no longer wants an answer. It may come before or after the handler's end, or never."""

    request: RequestRef
    reason: str

    @property
    def is_wanted(self) -> bool:
        """The client wants the call stopped; all else is a disconnect."""
        return wants_cancel(self.reason)


_TIMED_OUT = re.compile(r"timed?[ -]?out", re.IGNORECASE)


def wants_cancel(reason: str | None) -> bool:
    """Whether a person or program asked for the end, rather than a clock of the client's."""
    if reason is None or not reason.strip():
        return False
    # The Python SDK says this when the caller's own scope was cancelled, for which it has mostly a time-out.
    return reason != "caller cancelled" and _TIMED_OUT.search(reason) is None


STDIO_PEER = "standard input"


def request_ref(ctx: sdk.RequestContext) -> RequestRef:
    """The request that is being handled, which must not be a notification."""
    assert ctx.request_id is not None
    return RequestRef(_peer(ctx), coerce_request_id(ctx.request_id))


def cancel_in_memory(ctx: sdk.RequestContext) -> CancelNote | None:
    """For a `ServerMiddleware`: the cancellation that a message is, where none of our transports saw it."""
    if ctx.method != "notifications/cancelled" or wire_of(ctx) is not None:
        return None
    if isinstance(sdk.metadata_of(ctx), StdioMessage):
        return None
    return read_cancel(_peer(ctx), ctx.params)


def read_cancel(peer: str, params: Any) -> CancelNote | None:
    """The cancellation in the parameters of a `notifications/cancelled`; None if they are malformed."""
    fields = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    request_id, reason = fields.get("requestId"), fields.get("reason")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        return None
    return CancelNote(RequestRef(peer, coerce_request_id(request_id)), reason if isinstance(reason, str) else "")


def _peer(ctx: sdk.RequestContext) -> str:
    if isinstance(sdk.metadata_of(ctx), StdioMessage):
        return STDIO_PEER
    connection = sdk.connection_of(ctx)
    # Counted, not by `id()`: what is remembered of one connection must not meet a later one at its address.
    return connection.session_id or connection.state.setdefault("perdure.peer", f"connection {next(_connections)}")


_connections = count(1)


# --- HTTP -----------------------------------------------------------------------------------------


# JSON-RPC's fields come in this order from the SDK's models; a request or notification has no such member.
_ANSWER = re.compile(
    rb'(?:^|\ndata:)\s*\{"jsonrpc":\s*"2\.0",\s*"id":\s*("(?:[^"\\]|\\.)*"|-?\d+),'
    rb'\s*(?:"result":|"error":\s*\{"code":\s*(-?\d+))'
)
_HEAD = 4096


def answered_by(body: bytes) -> RequestId | None:
    """Which request a JSON body or an event of a stream answers; None if it is something else."""
    found = _ANSWER.search(body[:_HEAD])
    if found is None or (found[2] is not None and int(found[2]) == REQUEST_CANCELLED):
        return None
    return json.loads(found[1])


class Wires:
    """The HTTP connections of one server, and whom they report to."""

    def __init__(
        self,
        *,
        on_cancel: Callable[[CancelNote], None] | None = None,
        on_resumed: Callable[[RequestRef], None] | None = None,
        on_session_ended: Callable[[str], None] | None = None,
    ) -> None:
        self.on_cancel = on_cancel
        self.on_session_ended = on_session_ended
        """A client has ended its session, whose id this is."""
        self.on_resumed = on_resumed
        """A request whose own connection was lost has been answered over a resuming GET."""
        self.streams: set[_Connection] = set()

    def end_streams(self) -> None:
        """End the GET streams of all sessions: they answer nothing and would keep a server from ending."""
        for stream in list(self.streams):
            stream.hang_up()


class WireMiddleware:
    """Pure ASGI. It is the single reader of each connection: some servers tell of a disconnect only once."""

    def __init__(self, app: ASGIApp, wires: Wires) -> None:
        self._app = app
        self._wires = wires

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = _Connection(scope, receive, send, self._wires)
        scope["perdure.wire"] = connection.wire
        try:
            await self._app(scope, connection.receive, connection.send)
        finally:
            await connection.finish()


_SMALL = 65_536  # no cancellation is longer


class _Connection:
    """One HTTP exchange, between the server that speaks HTTP and the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, wires: Wires) -> None:
        self._receive = receive
        self._send = send
        self._wires = wires
        self._method: str = scope["method"]
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.wire = Wire(self._attend)
        self._left = asyncio.Event()
        self._body_is_read = False
        self._is_attended = False
        self._reader: asyncio.Task[None] | None = None
        self._began = False
        self._ended = False
        self._is_opaque = False
        self._hung_up = False
        self._beginning = b""
        self._cancel: CancelNote | None = None
        if self._method == "GET" and self._session is not None:
            wires.streams.add(self)

    # The way in.

    async def receive(self) -> Message:
        if self._body_is_read:
            self._attend()
            await self._left.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._body_is_read = True
            self._client_left()
        else:
            self._read(message.get("body", b""), message.get("more_body", False))
        return message

    def _read(self, body: bytes, more: bool) -> None:
        if self._method == "POST" and len(self._beginning) + len(body) < _SMALL:
            self._beginning += body
            if not more and b"cancelled" in self._beginning:
                self._cancel = self._cancellation()
        if not more:
            self._body_is_read = True
            self._beginning = b""
            if self._is_attended:
                self._attend()

    def _cancellation(self) -> CancelNote | None:
        # The stateless era answers 202 to any notification, unchecked: only a session's own cancel counts.
        version = self._header(MCP_PROTOCOL_VERSION_HEADER) or DEFAULT_NEGOTIATED_VERSION
        if self._session is None or version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        try:
            message: Any = json.loads(self._beginning)
            if message["method"] != "notifications/cancelled":
                return None
            return read_cancel(self._session, message.get("params"))
        except (ValueError, TypeError, KeyError):  # no JSON, or no message
            return None

    def _attend(self) -> None:
        """Somebody wants to know when the client leaves. Requests that nobody asks about cost no task."""
        self._is_attended = True
        if self._body_is_read and self._reader is None and not self._left.is_set():
            self._reader = asyncio.create_task(self._read_to_the_end())

    async def _read_to_the_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_left()

    def _client_left(self) -> None:
        self._left.set()
        if not self._ended:  # uvicorn reports a disconnect after a complete response too
            self.wire.leave()

    # The way out.

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._began = True
            self._is_opaque = any(name.lower() == b"content-encoding" for name, _ in message.get("headers", ()))
            if self._cancel is not None and message["status"] == 202:  # the session's owner was checked
                note, self._cancel = self._cancel, None
                if self._wires.on_cancel is not None:
                    self._wires.on_cancel(note)
            if self._method == "DELETE" and message["status"] < 300:
                self._session_ended()
            await self._send(message)
        elif message["type"] == "http.response.body":
            await self._send_body(message)
        else:
            await self._send(message)

    async def _send_body(self, message: Message) -> None:
        is_last = not message.get("more_body", False)
        answered = self._answer_in(message.get("body", b""), is_last)
        if answered is not None and self._reader is not None:
            # A disconnect that the kernel knows of takes asyncio and uvicorn four turns of the loop to get here.
            for _ in range(4):
                await asyncio.sleep(0)
        was_there = not self._left.is_set()
        await self._send(message)  # uvicorn drops it in silence when the client is gone, so look before and after
        is_there = was_there and not self._left.is_set()
        self._ended = self._ended or is_last
        if answered is not None and is_there:
            self._hand(answered)

    def _answer_in(self, body: bytes, is_last: bool) -> RequestId | None:
        if self._is_opaque:
            return "" if is_last and self._method == "POST" else None
        return answered_by(body)

    def _hand(self, request_id: RequestId) -> None:
        if self._method == "POST":
            self.wire.close(handed=True)
        elif self._session is not None and self._wires.on_resumed is not None:
            self._wires.on_resumed(RequestRef(self._session, coerce_request_id(request_id)))

    def _session_ended(self) -> None:
        if self._session is not None and self._wires.on_session_ended is not None:
            self._wires.on_session_ended(self._session)

    # The end.

    def hang_up(self) -> None:
        self._hung_up = True
        self._left.set()

    async def finish(self) -> None:
        self._wires.streams.discard(self)
        if self._reader is not None:
            self._reader.cancel()
        self.wire.close(handed=False)  # if it was not: an application that fails, a stream to be resumed
        if self._hung_up and self._began and not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def _session(self) -> str | None:
        return self._header(MCP_SESSION_ID_HEADER)

    def _header(self, name: str) -> str | None:
        wanted = name.encode()
        return next((value.decode("latin-1") for key, value in self._headers if key == wanted), None)
