"""The journal in a file: one SQLite database in WAL mode, written by one thread and read by another."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from perdure.engines.embedded.connections import BUSY_TIMEOUT, Durability, connect_reader, connect_writer
from perdure.engines.embedded.faults import storage_error
from perdure.engines.embedded.journal import Read, Then, Write
from perdure.engines.embedded.ledger import PAYLOAD_LIMIT, Ledger
from perdure.engines.embedded.lockfile import LockFile
from perdure.engines.embedded.mounts import refuse_network_file_system
from perdure.engines.embedded.reader import Reader
from perdure.engines.embedded.writer import Probe, Writer, end_process
from perdure.errors import StorageError

log = logging.getLogger("perdure")

T = TypeVar("T")

SOON = 0.02
"""Seconds that a write that has time waits for a commit to ride with."""


class SqliteJournal:
    """`durability="full"` syncs each commit; "relaxed" may lose the last ones with the power, never their order.

    Nothing else in the process may open the file by hand: closing it would drop SQLite's locks. `on_fatal` is
    called in the writer's thread when a sync has failed; by default it ends the process with status 74 (EX_IOERR).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        payload_limit: int = PAYLOAD_LIMIT,
        probe: Probe | None = None,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = BUSY_TIMEOUT,
        on_fatal: Callable[[StorageError], None] = end_process,
    ) -> None:
        self.path = Path(os.path.realpath(path))  # one lock file, by whatever name the database is known
        self._durability: Durability = durability
        self._payload_limit = payload_limit
        self._probe = probe
        self._clock = clock
        self._busy_timeout = busy_timeout
        self._on_fatal = on_fatal
        self._soon: list[Write[None]] = []
        self._writer: Writer | None = None
        self._reader: Reader | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        connecting = loop.run_in_executor(None, self._connect, loop)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # The thread goes on connecting, and what it opens would stay open.
            connecting.add_done_callback(_close_again)
            raise
        self._writer, self._reader = connecting.result()
        self._writer.start()

    async def close(self) -> None:
        if self._writer is None or self._reader is None:
            return
        self._send_soon()
        writer, self._writer = self._writer, None
        await self._reader.close()
        await writer.stop()

    def write(self, write: Write[Any], then: Then) -> None:
        if self._soon:
            self._send_soon()
        writer = self._writer
        if writer is None:
            raise self._is_not_open()
        writer.put(write, then)

    def write_soon(self, write: Write[None]) -> None:
        if not self._soon:
            asyncio.get_running_loop().call_later(SOON, self._send_soon)
        self._soon.append(write)

    async def read(self, read: Read[T]) -> T:
        if self._reader is None or self._writer is None:
            raise self._is_not_open()
        return await self._reader.read(read)

    @property
    def changed_elsewhere(self) -> bool:
        return self._open_writer.has_changed_elsewhere()

    @property
    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise self._is_not_open()
        return self._writer

    def _is_not_open(self) -> StorageError:
        return StorageError(f"{self.path} is not open.")

    def _send_soon(self) -> None:
        soon, self._soon = self._soon, []
        if self._writer is not None:
            for write in soon:
                self._writer.put(write, _log_failure)

    def _connect(self, loop: asyncio.AbstractEventLoop) -> tuple[Writer, Reader]:
        path = str(self.path)
        lock = self._make_lock()
        try:
            with lock:
                writing = connect_writer(self.path, self._durability, self._busy_timeout)
                ledger = Ledger(writing, self._clock, self._payload_limit)
                writer = Writer(path, ledger, lock, loop, self._probe, self._on_fatal)
                reading = connect_reader(self.path, self._busy_timeout)
                reader = Reader(path, Ledger(reading, self._clock, self._payload_limit))
        except (sqlite3.Error, OSError, StorageError) as error:
            lock.close()
            raise storage_error(error, path) from error
        return writer, reader

    def _make_lock(self) -> LockFile:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_network_file_system(self.path.parent)
            return LockFile(self.path.with_name(f"{self.path.name}-lock"))
        except OSError as error:
            raise storage_error(error, str(self.path)) from error


def _close_again(connecting: asyncio.Future[tuple[Writer, Reader]]) -> None:
    if connecting.cancelled() or connecting.exception() is not None:
        return
    writer, reader = connecting.result()
    reader.end()
    writer.start()
    writer.end()


def _log_failure(_result: None, error: BaseException | None) -> None:
    if error is not None:
        log.warning("A request could not be let go: %s", error)
