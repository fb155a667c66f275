"""Runners of our own, over stdio and HTTP. Both end in time whatever is still open, and let the lifespan exit.

The SDK's stdio runner dies of SIGTERM without its lifespan's exit and hangs after SIGINT; uvicorn alone waits for
every open stream before it tells the application that it is over.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from starlette.types import ASGIApp

from perdure.protocol.callers import is_loopback
from perdure.protocol.sdk import lowlevel_server
from perdure.protocol.stdio import Stdio, claim_standard_streams
from perdure.protocol.wire import CancelNote

STDIO_GRACE = timedelta(seconds=1.5)
"""Under the 2 s after which clients send SIGTERM, and 2 s later SIGKILL."""

HTTP_GRACE = timedelta(seconds=10)

Drain = Callable[[], Awaitable[None]]
"""Let waiting requests go with an error that says to ask again, and end listens."""

Address = tuple[str, int]

_SLACK = 0.4
"""Seconds that a stdio process may live beyond its grace."""

_LET_GO = 0.2
"""Seconds that requests which were let go have for writing that they were."""

_AFTERWARDS = 1.0
"""Seconds that a program has at most for what it does after its server."""


# --- stdio ----------------------------------------------------------------------------------------


def serve_stdio(
    server: MCPServer[Any],
    *,
    drain: Drain,
    on_cancel: Callable[[CancelNote], None],
    grace: timedelta = STDIO_GRACE,
) -> None:
    """`run_stdio` for a process that does nothing else: it ends within 2 s of its cause, stuck threads or not."""
    _run_to_the_end(lambda ending: _serve_stdio(server, ending, drain, on_cancel), grace.total_seconds() + _SLACK)


async def run_stdio(
    server: MCPServer[Any],
    *,
    drain: Drain,
    on_cancel: Callable[[CancelNote], None],
    grace: timedelta = STDIO_GRACE,
) -> None:
    """Serve until the end of input, a closed output, SIGTERM or SIGINT; then drain and exit the lifespan.

    The lifespan's exit has the grace. What then still hangs ends with the process, and
    stderr shows what its threads did.
    """
    ending = Ending(grace.total_seconds() + _SLACK)
    try:
        await _serve_stdio(server, ending, drain, on_cancel)
    finally:
        ending.call_off()


async def _serve_stdio(
    server: MCPServer[Any], ending: Ending, drain: Drain, on_cancel: Callable[[CancelNote], None]
) -> None:
    lowlevel = lowlevel_server(server)
    stdio = Stdio(*claim_standard_streams(), on_cancel=on_cancel, on_closed=ending.begin)
    with _on_signals(lambda _: ending.begin()):
        stdio.open()
        # In a task apart from the connection's, so that nothing which breaks there cancels the lifespan's exit.
        async with lowlevel.lifespan(lowlevel) as state:
            serving = asyncio.create_task(
                serve_dual_era_loop(
                    lowlevel,
                    stdio.inbox,
                    stdio.outbox,
                    lifespan_state=state,
                    init_options=lowlevel.create_initialization_options(),
                )
            )
            await _first(serving, ending.wait())
            await _first(_let_go(drain, stdio), asyncio.sleep(_LET_GO))
            serving.cancel()
            await asyncio.wait({serving}, timeout=_LET_GO / 2)


async def _let_go(drain: Drain, stdio: Stdio) -> None:
    await drain()
    await stdio.wait_answered()


# --- HTTP -----------------------------------------------------------------------------------------


def serve_http(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    drain: Drain,
    grace: timedelta = HTTP_GRACE,
    log_level: str = "info",
    on_listening: Callable[[Sequence[Address]], None] | None = None,
    path: str = "",
) -> None:
    """`run_http` for a process that does nothing else: it ends within its grace, stuck threads or not."""
    _run_to_the_end(
        lambda ending: _serve_http(app, ending, host, port, drain, grace, log_level, on_listening, path),
        grace.total_seconds(),
    )


async def run_http(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    drain: Drain,
    grace: timedelta = HTTP_GRACE,
    log_level: str = "info",
    on_listening: Callable[[Sequence[Address]], None] | None = None,
    path: str = "",
) -> None:
    """Serve until SIGTERM or SIGINT; then drain, give open requests half the grace, and the lifespan the rest.

    `on_listening` hears the bound addresses before the first request; they are printed to stderr, with
    `path` as URLs to connect to. Port 0 takes a free one.
    """
    ending = Ending(grace.total_seconds())
    try:
        await _serve_http(app, ending, host, port, drain, grace, log_level, on_listening, path)
    finally:
        ending.call_off()


async def _serve_http(
    app: ASGIApp,
    ending: Ending,
    host: str,
    port: int,
    drain: Drain,
    grace: timedelta,
    log_level: str,
    on_listening: Callable[[Sequence[Address]], None] | None,
    path: str,
) -> None:
    sockets = listen(host, port)
    addresses = [address_of(bound) for bound in sockets]
    if on_listening is not None:
        on_listening(addresses)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level=log_level,
        # A forged X-Forwarded-For must not turn into an address that callers are judged by.
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(grace.total_seconds() / 2)),
    )
    server = _Server(config, drain, ending, [_url(*address) + path for address in addresses])
    await server.serve(sockets)


class _Server(uvicorn.Server):
    """uvicorn, which drains before it waits for connections, and ends without raising its signal again."""

    def __init__(self, config: uvicorn.Config, drain: Drain, ending: Ending, urls: Sequence[str]) -> None:
        super().__init__(config)
        self._drain = drain
        self._ending = ending
        self._urls = urls

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        with _on_signals(self._end):
            yield

    def _end(self, number: int) -> None:
        # Not `handle_exit`: sse-starlette has patched it to cut all streams of the process, for ever.
        self.force_exit |= self.should_exit and number == signal.SIGINT
        self.should_exit = True
        self._ending.begin()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for url in self._urls:
            print(f"Listening on {url}", file=sys.stderr, flush=True)

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second; the Date header, which is what remains to be done, needs one.
        while not await self.on_tick(0):
            await _first(self._ending.wait(), asyncio.sleep(1))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.begin()
        for server in self.servers:
            server.close()
        try:
            await _first(self._drain(), asyncio.sleep(self.config.timeout_graceful_shutdown or 0))
        finally:
            await super().shutdown(sockets)


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of a name, on one port, which notice clients that vanished without a word."""
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bind(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                continue  # a machine without IPv6 may still have a name for its loopback
            for bound in sockets:
                bound.close()
            raise OSError(error.errno, f"Cannot listen on {address[0]}, port {port}: {error.strerror}") from None
        port = address_of(sockets[0])[1]  # the others take what the first was given
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, f"Cannot listen on {host}: none of its addresses is this machine's")
    return sockets


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    # With its protocol named: else asyncio does not turn Nagle's algorithm off, and answers wait 40 ms for an ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _watch_for_the_dead(bound)
        bound.bind(address)
        bound.listen(2048)  # who asks while we start waits
    except OSError:
        bound.close()
        raise
    return bound


def _watch_for_the_dead(listener: socket.socket) -> None:
    """Connections inherit it. A dead one is found in under a minute, silent or written to (SSE pings every 15 s)."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 20),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 45_000),
    ):
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def address_of(bound: socket.socket) -> Address:
    host, port = bound.getsockname()[:2]
    return host, port


def loopback_only(addresses: Sequence[Address]) -> frozenset[Address]:
    """Those that only this machine can reach: what `Doors.bound` wants."""
    return frozenset(address for address in addresses if is_loopback(address[0]))


# --- the end of a process -------------------------------------------------------------------------


class Ending:
    """Whether a server must end, and the promise that its process ends in time."""

    def __init__(self, within: float) -> None:
        self._within = within
        self._deadline: float | None = None
        self._begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Callable in a signal handler. The bound holds even while something blocks the loop."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._within
            # A thread in C: it needs neither the loop nor the interpreter's lock, and shows what the others do.
            faulthandler.dump_traceback_later(self._within, exit=True, file=2)
            self._loop.call_soon_threadsafe(self._begun.set)

    async def wait(self) -> None:
        await self._begun.wait()

    def call_off(self) -> None:
        """The server has ended; its process may live on."""
        faulthandler.cancel_dump_traceback_later()

    def see_off(self) -> None:
        """The server has ended in good order: what the program does after it has the rest of the time, threads none."""
        faulthandler.cancel_dump_traceback_later()
        left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        threading.Thread(target=_exit_in, args=(min(max(left, _LET_GO), _AFTERWARDS),), daemon=True).start()


def _exit_in(seconds: float) -> None:
    time.sleep(seconds)
    for stream in sys.stdout, sys.stderr:
        stream.flush()
    os._exit(0)


def _run_to_the_end(serve: Callable[[Ending], Coroutine[Any, Any, None]], within: float) -> None:
    async def run() -> None:
        ending = Ending(within)
        await serve(ending)
        ending.see_off()  # asyncio and the interpreter would wait for every thread

    asyncio.run(run())


@contextmanager
def _on_signals(react: Callable[[int], None]) -> Generator[None, None, None]:
    """`signal.signal` rather than the loop's: it works on Windows too, and when the loop is blocked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    before = {number: signal.signal(number, lambda got, _: react(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _first(*awaitables: Awaitable[Any]) -> None:
    """Wait for the first of them; those that were made here are cancelled then."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, given in zip(tasks, awaitables, strict=True):
            if task is not given:
                task.cancel()
    for task in done:
        if not task.cancelled():
            task.result()
