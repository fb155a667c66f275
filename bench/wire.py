"""A client of 2026-07-28 made of as little as possible, so that what is measured is the server.

One connection, one request at a time; answers come as JSON or on a stream of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

ERA = "2026-07-28"

META: dict[str, Any] = {
    PROTOCOL_VERSION_META_KEY: ERA,
    CLIENT_INFO_META_KEY: {"name": "bench", "version": "1"},
    CLIENT_CAPABILITIES_META_KEY: {
        "elicitation": {"form": {}},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    },
}

_ids = count(1)


class Wire:
    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = urlsplit(url)
        self._path, self._host = where.path, where.netloc
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, params: dict[str, Any], *, name: str | None = None) -> dict[str, Any]:
        """The result of a request; `name` is what it is about, as a header says for whoever routes."""
        result: dict[str, Any] | None = None
        async for message in self.messages(method, params, name=name):
            if "error" in message:
                raise RuntimeError(f"{method} gave {message['error']}")
            result = message.get("result", result)
        assert result is not None
        return result

    async def messages(
        self, method: str, params: dict[str, Any], *, name: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """All that is sent for a request, until its answer."""
        self._send(method, params, name)
        headers = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if (length := _header(headers, b"content-length")) is not None:
            yield json.loads(await self._reader.readexactly(int(length)))
            return
        buffered = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            buffered += (await self._reader.readexactly(size + 2))[:-2]
            *events, buffered = buffered.split(b"\r\n\r\n")
            for event in events:
                if (data := event.partition(b"data: ")[2]) and not event.startswith(b":"):
                    yield json.loads(data)
        await self._reader.readexactly(2)

    def _send(self, method: str, params: dict[str, Any], name: str | None) -> None:
        request: dict[str, Any] = {
            "jsonrpc": "2.0",
            "id": next(_ids),
            "method": method,
            "params": {"_meta": META, **params},
        }
        body = json.dumps(request, separators=(",", ":")).encode()
        head = [
            f"POST {self._path} HTTP/1.1",
            f"host: {self._host}",
            "accept: application/json, text/event-stream",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"mcp-protocol-version: {ERA}",
            f"mcp-method: {method}",
        ]
        if name is not None:
            head.append(f"mcp-name: {name}")
        self._writer.write("\r\n".join([*head, "", ""]).encode() + body)

    def close(self) -> None:
        self._writer.close()


async def connect(url: str) -> Wire:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    return Wire(url, reader, writer)


@asynccontextmanager
async def connected(url: str, connections: int) -> AsyncGenerator[list[Wire]]:
    wires = [await connect(url) for _ in range(connections)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.close()


def _header(headers: bytes, name: bytes) -> bytes | None:
    _, found, rest = headers.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None
