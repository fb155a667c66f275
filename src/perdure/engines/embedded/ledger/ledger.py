"""The connection that writes and reads are performed on, and the limits that they keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from perdure.core.codec import encode_event
from perdure.core.events import Event
from perdure.errors import PayloadTooLarge

PAYLOAD_LIMIT = 16 * 1024 * 1024


class Ledger:
    """What every write and read is given; it begins and ends no transaction."""

    __slots__ = ("clock", "connection", "execute", "payload_limit")

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float], payload_limit: int) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.clock = clock
        self.payload_limit = payload_limit

    def row(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return self.execute(sql, values).fetchone()

    def encode(self, event: Event) -> bytes:
        body = encode_event(event)
        if len(body) > self.payload_limit:
            for field in ("value", "error"):
                self.check_size(getattr(event, field, None), f"The {field} of {getattr(event, 'name', 'a child')!r}")
        return body

    def check_size(self, payload: bytes | None, what: str) -> None:
        if payload is not None and len(payload) > self.payload_limit:
            raise PayloadTooLarge(what, len(payload), self.payload_limit)
