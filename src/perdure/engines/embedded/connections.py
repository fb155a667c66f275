"""Makes the database where there is none, and connects to it."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from perdure.engines.embedded.schema import APPLICATION_ID, migrate
from perdure.errors import StorageError

Durability = Literal["full", "relaxed"]

BUSY_TIMEOUT = 5.0
"""Seconds that SQLite waits for programs that do not know our lock file."""


def connect_writer(path: Path, durability: Durability, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """With the schema of this version. Nobody else may be at the file."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = _connect(path, busy_timeout)
    try:
        execute = connection.execute
        (mode,) = execute("PRAGMA journal_mode = wal").fetchone()
        if mode != "wal":
            raise StorageError(f"The file system of {path} cannot do what SQLite's WAL mode needs. Use a local disk.")
        execute(f"PRAGMA synchronous = {'full' if durability == 'full' else 'normal'}")
        if sys.platform == "darwin":
            execute("PRAGMA fullfsync = on")
            execute("PRAGMA checkpoint_fullfsync = on")
        execute("PRAGMA temp_store = memory")  # a full disk must not need more room
        execute("PRAGMA cache_size = -16000")
        migrate(connection, str(path))
        _try_to_write(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _try_to_write(connection: sqlite3.Connection) -> None:
    """SQLite opens what cannot be written for reading, and says nothing until somebody writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def connect_reader(path: Path, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    connection = _connect(path, busy_timeout)
    connection.execute("PRAGMA query_only = on")
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Used by one thread at a time, but not by the one that made it."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection
