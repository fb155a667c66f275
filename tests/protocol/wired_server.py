"""A server on the bare SDK that has perdure's wire and runners, and reports what they see, one JSON line each.

python -m tests.protocol.wired_server stdio
python -m tests.protocol.wired_server http [--json] [--grace SECONDS] [--hang WHERE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.shared.exceptions import MCPError
from mcp_types import JSONRPCMessage

from perdure.protocol.sdk import close_listens
from perdure.protocol.serve import serve_http, serve_stdio
from perdure.protocol.wire import (
    CancelNote,
    RequestRef,
    WireMiddleware,
    Wires,
    cancel_in_memory,
    exchange,
    request_ref,
)

Report = Callable[[dict[str, Any]], None]


class WiredServer:
    """Its tools name each request with a token of the test's; reports carry it."""

    def __init__(self, report: Report, hang: str = "") -> None:
        self._report = report
        self._hang = hang
        self._gates: dict[str, asyncio.Event] = {}
        self._tokens: dict[RequestRef, str] = {}
        self._draining = asyncio.Event()
        self.wires = Wires(on_cancel=self.cancelled, on_resumed=self._resumed)
        self.mcp = MCPServer(
            "wired", log_level="ERROR", lifespan=self._lifespan, middleware=[self._watch_notifications]
        )
        self.mcp.add_tool(self.hold)
        self.mcp.add_tool(self.release)
        self.mcp.add_tool(self.big)
        self.mcp.add_tool(self.ordinary)
        self.mcp.add_tool(self.chatter)

    # What clients call.

    async def hold(self, token: str, ctx: Context[Any]) -> str:
        """Answers when it is released."""
        with exchange(ctx.request_context) as wire:
            self._tokens[request_ref(ctx.request_context)] = token
            wire.on_close(
                lambda handed: self._report({"token": token, "closed": {"handed": handed, "gone": wire.gone}})
            )
            gone = asyncio.create_task(wire.wait_gone())
            gone.add_done_callback(lambda task: task.cancelled() or self._report({"token": token, "waited": "gone"}))
            try:
                await self._released_or_draining(token, ctx)
            except asyncio.CancelledError:
                self._report({"token": token, "handler": "cancelled"})
                raise
            except MCPError:
                wire.close(handed=False)
                raise
            finally:
                asyncio.get_running_loop().call_later(1, gone.cancel)
            self._report({"token": token, "handler": "returned"})
            return "done"

    async def _released_or_draining(self, token: str, ctx: Context[Any]) -> None:
        gate = self._gates.setdefault(token, asyncio.Event())
        self._report({"token": token, "handler": "holds", "request": ctx.request_id})
        waits = [asyncio.create_task(each.wait()) for each in (gate, self._draining)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not gate.is_set():
            raise MCPError(-32000, "The server restarts. Ask again.")

    async def release(self, token: str) -> str:
        self._gates.setdefault(token, asyncio.Event()).set()
        return "released"

    def _open_all(self) -> None:
        for gate in self._gates.values():
            gate.set()

    async def big(self, token: str, ctx: Context[Any]) -> str:
        """Answers at once, with more than any pipe holds."""
        with exchange(ctx.request_context) as wire:
            wire.on_close(
                lambda handed: self._report({"token": token, "closed": {"handed": handed, "gone": wire.gone}})
            )
            self._report({"token": token, "handler": "returned"})
            return "x" * 4_000_000

    async def ordinary(self, token: str) -> str:
        """Knows nothing of wires."""
        self._report({"token": token, "handler": "holds"})
        await self._gates.setdefault(token, asyncio.Event()).wait()
        return "done"

    async def chatter(self) -> str:
        """Prints, and so do its children."""
        print("to stdout from Python")
        child = await asyncio.create_subprocess_exec("sh", "-c", "echo to stdout from a child; cat")
        await child.wait()
        return "said"

    # What the transports tell.

    def cancelled(self, note: CancelNote) -> None:
        self._report(
            {"token": self._tokens.get(note.request), "cancel": {"reason": note.reason, "wanted": note.is_wanted}}
        )

    def _resumed(self, request: RequestRef) -> None:
        self._report({"token": self._tokens.get(request), "resumed": True})

    async def _watch_notifications(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if (note := cancel_in_memory(ctx)) is not None:
            self.cancelled(note)
        return await call_next(ctx)

    # Its life.

    async def drain(self) -> None:
        self._report({"life": "draining"})
        self._draining.set()
        close_listens(self.mcp)
        self.wires.end_streams()

    @asynccontextmanager
    async def _lifespan(self, _: MCPServer[dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
        print("a line that a lifespan prints")
        if self._hang == "start":
            raise LookupError("no start today")
        self._report({"life": "entered"})
        if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._open_all)
        if self._hang == "loop":
            asyncio.get_running_loop().call_soon(time.sleep, 60)
        if self._hang == "thread":
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        yield {}
        if self._hang == "lifespan":
            await asyncio.sleep(60)
        await asyncio.sleep(0.05)  # an exit that awaits: what is cancelled here does not reach its end
        self._report({"life": "exited"})

    def app(self, *, json_response: bool) -> WireMiddleware:
        app = self.mcp.streamable_http_app(json_response=json_response, event_store=Events(), retry_interval=3000)
        return WireMiddleware(app, self.wires)


class Events(EventStore):
    """All in memory. Stream ids are request ids, so it serves one session at a time."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        stream = self._events[int(last_event_id) - 1][0]
        for number, (stream_id, message) in enumerate(self._events[int(last_event_id) :], int(last_event_id) + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hang", choices=["start", "loop", "thread", "lifespan"], default="")
    parser.add_argument("--grace", type=float, default=3)
    options = parser.parse_args()
    server = WiredServer(lambda line: print(json.dumps(line), file=sys.stderr, flush=True), options.hang)
    if options.transport == "stdio":
        serve_stdio(server.mcp, drain=server.drain, on_cancel=server.cancelled)
    else:
        serve_http(
            server.app(json_response=options.json),
            host="127.0.0.1",
            port=0,
            drain=server.drain,
            grace=timedelta(seconds=options.grace),
            log_level="warning",
        )
    server._report({"life": "returned"})  # pyright: ignore[reportPrivateUsage]  the same module


if __name__ == "__main__":
    main()
