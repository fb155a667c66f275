"""A small HTTP server with a schedule of faults, which counts what it was asked and what it answered.

On asyncio streams, because it must know when an answer has left, break connections and stop listening.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from perdure.servers.standins.faults import Cut, Down, Refuse, Schedule, Slow

COUNTS = "/_counts"
EFFECTS = "/_effects"


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: Mapping[str, str]
    """Names are in lower case."""
    method: str = "GET"
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    content: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/json"

    def to_bytes(self) -> bytes:
        body = json.dumps(self.content).encode()
        headers = [
            ("Content-Type", self.media_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *self.headers,
        ]
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in headers), "", ""]
        return "\r\n".join(head).encode() + body


@dataclass(slots=True)
class Counts:
    """Of one path. `after_success` are requests that came when one had succeeded already."""

    received: int = 0
    succeeded: int = 0
    after_success: int = 0


class Standin:
    """Listens on 127.0.0.1; `answer` says what, the schedule says how it goes wrong.

    `effects` is what its requests have changed so far, as JSON.
    """

    def __init__(
        self,
        answer: Callable[[Request, str], Reply],
        schedule: Schedule | None = None,
        effects: Callable[[], Any] = dict[str, Any],
    ) -> None:
        self.counts: dict[str, Counts] = defaultdict(Counts)
        self._answer = answer
        self._effects = effects
        self._schedule = schedule or Schedule()
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncGenerator[None]:
        self._port = port
        await self._listen()
        try:
            yield
        finally:
            self._stop_listening()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(await _read(reader), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or was only looking whether somebody listens; or this ends
        finally:
            writer.close()
            self._connections.discard(task)

    async def _serve(self, asked: Request, writer: asyncio.StreamWriter) -> None:
        if asked.path == COUNTS:
            counts = {path: asdict(counts) for path, counts in self.counts.items()}
            await _send(Reply(counts).to_bytes(), writer)
            return
        if asked.path == EFFECTS:
            await _send(Reply(self._effects()).to_bytes(), writer)
            return
        counts = self.counts[asked.path.partition("?")[0]]
        counts.received += 1
        counts.after_success += counts.succeeded > 0
        match self._schedule.next(asked.path):
            case None:
                reply = self._answer(asked, self.url)
            case Slow(seconds):
                reply = self._answer(asked, self.url)
                await asyncio.sleep(seconds)
            case Refuse(status, retry_after):
                headers = () if retry_after is None else (("Retry-After", retry_after),)
                reply = Reply({"detail": "as planned"}, status, headers, "application/problem+json")
            case Cut():
                await _send(self._answer(asked, self.url).to_bytes()[:-1], writer)
                return
            case Down(seconds):
                await self._be_down(seconds, writer)
                return
        await _send(reply.to_bytes(), writer)
        counts.succeeded += reply.status == 200

    async def _be_down(self, seconds: float, writer: asyncio.StreamWriter) -> None:
        self._stop_listening()
        writer.transport.abort()
        await asyncio.sleep(seconds)
        await self._listen()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")
    method, path, _version = request.split(" ")
    fields = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return Request(path, headers, method, await reader.readexactly(int(headers.get("content-length", "0"))))


async def _send(answer: bytes, writer: asyncio.StreamWriter) -> None:
    """Returns when the kernel has all of it."""
    writer.transport.set_write_buffer_limits(high=0)
    writer.write(answer)
    await writer.drain()
