"""What two commits cost that nobody computes anything for: a queue, a thread and SQLite, on the same disk.

It has no codec, no bodies, no epochs and no retries. What an engine in Python takes beyond it is the engine's own; what
the floor itself takes beyond the disk is changes of thread and SQLite.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE calls (n INTEGER PRIMARY KEY, id TEXT, status TEXT, result BLOB);
CREATE TABLE events (call INTEGER, seq INTEGER, body BLOB, PRIMARY KEY (call, seq)) WITHOUT ROWID;
"""

Statement = tuple[str, Sequence[Any]]
Unit = tuple[Sequence[Statement], asyncio.Future[None]]


class Floor:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[list[Unit] | None] = queue.SimpleQueue()
        self._gathered: list[Unit] = []
        self._numbers = count(1)

    async def call(self, steps: int = 1) -> None:
        """As many commits as a call with so many steps has: its start, all outcomes but the last, that with the end."""
        n = next(self._numbers)
        await self._commit(("INSERT INTO calls VALUES (?, ?, 'running', x'')", (n, f"{n:032x}")))
        for seq in range(1, steps):
            await self._commit(("INSERT INTO events VALUES (?, ?, ?)", (n, seq, b"1")))
        await self._commit(
            ("INSERT INTO events VALUES (?, ?, ?)", (n, steps, b"1")),
            ("UPDATE calls SET status = 'completed', result = ? WHERE n = ?", (b"1", n)),
        )

    def _commit(self, *statements: Statement) -> asyncio.Future[None]:
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        done = self._loop.create_future()
        self._gathered.append((statements, done))
        return done

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._queue.put(gathered)

    # --- the thread ---

    def run(self) -> None:
        while (batch := self._queue.get()) is not None:
            while self._queue.qsize() and (more := self._queue.get()) is not None:
                batch += more
            self._connection.execute("BEGIN IMMEDIATE")
            for statements, _ in batch:
                for sql, values in statements:
                    self._connection.execute(sql, values)
            self._connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._tell, batch)

    def stop(self) -> None:
        self._queue.put(None)

    def _tell(self, batch: list[Unit]) -> None:
        for _, done in batch:
            done.set_result(None)


@asynccontextmanager
async def open_floor(folder: Path) -> AsyncGenerator[Floor]:
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None, check_same_thread=False)
    connection.executescript(SCHEMA)
    floor = Floor(connection)
    thread = Thread(target=floor.run)
    thread.start()
    try:
        yield floor
    finally:
        floor.stop()
        await asyncio.to_thread(thread.join)
        connection.close()
