"""What SQLite's errors mean for a unit, by their codes."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

from perdure.errors import StorageCorrupt, StorageError, StorageFull


class Fault(Enum):
    UNIT = auto()
    """The unit's own: its neighbours are not concerned."""
    NO_ROOM = auto()
    """Nothing was written, and later it may be: the disk is full, or refuses to be written."""
    LOCKED = auto()
    """Somebody else has the database for longer than the busy timeout."""
    DAMAGED = auto()
    """What is there cannot be read."""
    UNKNOWN_STATE = auto()
    """Nobody knows what is on the disk; only reading it anew, in another process, can tell."""


_NO_ROOM = frozenset(
    {
        sqlite3.SQLITE_FULL,
        # Also EFBIG and a quota that is used up, which SQLite does not tell from a broken disk.
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_NOMEM,
    }
)

_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})

_BY_FAMILY = {
    sqlite3.SQLITE_READONLY: Fault.NO_ROOM,
    sqlite3.SQLITE_CANTOPEN: Fault.NO_ROOM,
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Fault.LOCKED,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
    sqlite3.SQLITE_IOERR: Fault.UNKNOWN_STATE,
}


_FORBIDDEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


def fault_of(error: BaseException) -> Fault:
    code: int | None = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    if code is None:
        return Fault.UNIT
    if code in _NO_ROOM:
        return Fault.NO_ROOM
    if code in _UNREADABLE:
        return Fault.DAMAGED
    return _BY_FAMILY.get(code & 0xFF, Fault.UNIT)


def storage_error(error: Exception, path: str) -> StorageError:
    """The error of ours for one of SQLite's or of the system's."""
    match error, fault_of(error):
        case StorageError(), _:
            return error
        case OSError(), _:
            return _not_writable(error, path)
        case sqlite3.Error(), Fault.NO_ROOM if error.sqlite_errorcode & 0xFF in _FORBIDDEN:
            return _not_writable(error, path)
        case _, Fault.NO_ROOM:
            return StorageFull(f"No room on the disk of {path} ({error}). Make room; running calls then go on.")
        case _, Fault.LOCKED:
            return StorageError(f"{path} is locked by another program ({error}). Close what has it open.")
        case _, Fault.DAMAGED:
            return StorageCorrupt(
                f"{path} is damaged or is no database of perdure ({error}). Move it away, with its -wal and -shm "
                "files, and restore a copy or begin with a new file."
            )
        case _:
            return StorageError(f"{path} cannot be used ({error}).")


def _not_writable(error: Exception, path: str) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error}). Make the file and its folder writable for this user, "
        "or give the engine another path."
    )
