"""When the write-ahead log is copied into the database: after a batch was told, never inside SQLite's own commit."""

from __future__ import annotations

import os
import sqlite3

PAGE = 4096

PASSIVE_AFTER = 1_000
"""Pages: what SQLite itself would do."""

TRUNCATE_ABOVE = 64 * 1024 * 1024
"""Bytes of the log, which only grows while a reader holds it; below that it is written over in place."""


class Checkpoints:
    """Counts what a connection committed. SQLite tells nobody how many pages a commit had, so it is an estimate."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._log = f"{path}-wal"
        self._pages = 0.0
        self._changes = connection.total_changes
        self._size = 0

    def after_commit(self) -> None:
        changes = self._connection.total_changes
        if changes == self._changes:
            return
        size = self._log_size()
        # Measured: four pages of every commit, half a page for each row, and large payloads by the file's growth.
        self._pages += 4 + (changes - self._changes) / 2 + max(0, size - self._size) / PAGE
        self._changes, self._size = changes, size
        if self._pages >= PASSIVE_AFTER:
            self._pages = 0
            self._checkpoint()

    def _checkpoint(self) -> None:
        execute = self._connection.execute
        _, in_log, copied = execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if in_log == copied and self._log_size() > TRUNCATE_ABOVE:
            (timeout,) = execute("PRAGMA busy_timeout").fetchone()
            execute("PRAGMA busy_timeout = 0")  # a reader is not waited for: next time
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            execute(f"PRAGMA busy_timeout = {timeout}")
            self._size = self._log_size()

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except FileNotFoundError:
            return 0
