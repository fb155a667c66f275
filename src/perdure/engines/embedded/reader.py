"""The reading thread: a connection of its own, one short transaction for each question, none across an await."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from perdure.engines.embedded.faults import storage_error
from perdure.engines.embedded.journal import Read
from perdure.engines.embedded.ledger import Ledger, answer

T = TypeVar("T")


class Reader:
    def __init__(self, path: str, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-reader")

    async def read(self, read: Read[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, read)

    async def close(self) -> None:
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        self._thread.shutdown()
        self._ledger.connection.close()

    def _answer(self, read: Read[T]) -> T:
        execute = self._ledger.execute
        try:
            execute("BEGIN")
            try:
                return answer(self._ledger, read)
            finally:
                execute("ROLLBACK")
        except sqlite3.Error as error:
            raise storage_error(error, self._path) from error
