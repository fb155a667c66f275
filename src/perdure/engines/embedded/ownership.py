"""Which process is alive: the lock that each one holds, and the thread that waits for another's.

A process locks one file per database, `<database>.owners/<name>.lock`, and the kernel frees it the
moment the process is dead, however it died. One that is merely stopped keeps it: only an operator
takes calls from the living. What a death means for calls is not known here; there is no SQL.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from perdure.errors import StorageError

POLL = 0.05
"""Seconds between two looks at a lock, where the system offers no wait that suits us."""


class ProcessLock:
    """This process's sign of life beside one database, shared by all its engines.

    A forked child does not have it, and what it does with an inherited one has no effect.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.name = path.stem
        self._path = path
        self._fd = fd
        self._holds = 0

    @classmethod
    def hold(cls, database: Path) -> ProcessLock:
        """Be alive, until as many calls of `release`; raises StorageError where the file cannot be made."""
        folder = _folder_of(database)
        with _own.guard:
            lock = _own.locks.get(folder)
            if lock is None:
                lock = _own.locks[folder] = cls(*_make_locked_file(folder))
            lock._holds += 1
            return lock

    def release(self) -> None:
        """The last of the process's engines takes the sign down: its watchers wake as if it had died."""
        folder = self._path.parent
        with _own.guard:
            if _own.locks.get(folder) is not self:
                return  # a forked child that unwinds its parent's stack
            self._holds -= 1
            if self._holds == 0:
                del _own.locks[folder]
                _remove_locked_file(self._path, self._fd)


def is_alive(database: Path, name: str) -> bool:
    """Whether the process of that name still holds its lock; one whose file is gone is dead."""
    if _is_own(database, name):
        return True
    fd = _open_others(_file_of(database, name))
    if fd is None:
        return False
    try:
        return _is_locked(fd)
    finally:
        os.close(fd)


def forget(database: Path, name: str) -> None:
    """Remove the file of a dead process. Do so before its calls are taken over: then no crash leaves it behind."""
    path = _file_of(database, name)
    with suppress(OSError):  # gone already; or on Windows, still open in another watcher
        path.unlink()


def successor(me: int, others: Iterable[int]) -> int | None:
    """Whom `me` watches, so that in a ring of any size each process is watched by one."""
    ring = sorted(set(others) - {me})
    return next((other for other in ring if other > me), ring[0] if ring else None)


class Watch:
    """Calls back once, in a thread of its own, when the process of that name is dead or has left."""

    def __init__(self, database: Path, name: str, on_death: Callable[[str], None]) -> None:
        if _is_own(database, name):
            raise ValueError("A process cannot watch itself: closing its own file would give up its lock.")
        self._name = name
        self._on_death: Callable[[str], None] | None = on_death
        self._guard = threading.RLock()
        self._wait = _join_wait(self, _file_of(database, name))

    def stop(self) -> None:
        """Nothing is called back after this; a callback that runs in this moment is waited for."""
        with self._guard:
            self._on_death = None
        self._wait.leave(self)

    def call_back(self) -> None:
        with self._guard:
            if self._on_death is not None:
                self._on_death(self._name)


class _Wait(threading.Thread):
    """The wait for one process. It cannot be called off, so a later watch on the same process joins it:
    a process that lives long among short ones would collect a thread for each of them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name=f"perdure-watch-{path.stem}", daemon=True)
        self._path = path
        self._fd = _open_others(path)
        self._watches: list[Watch] = []

    def join_in(self, watch: Watch) -> None:
        self._watches.append(watch)

    def leave(self, watch: Watch) -> None:
        with _own.guard:
            if watch in self._watches:
                self._watches.remove(watch)

    def run(self) -> None:
        if self._fd is not None:
            _wait_until_free(self._fd)
            os.close(self._fd)
        with ExitStack() as callbacks:  # each is called, also when another raises
            for watch in self._end():
                callbacks.callback(watch.call_back)

    def _end(self) -> list[Watch]:
        with _own.guard:
            del _own.waits[self._path]
            return self._watches


def _join_wait(watch: Watch, path: Path) -> _Wait:
    with _own.guard:
        wait = _own.waits.get(path)
        if wait is None:
            wait = _Wait(path)
            wait.start()
            _own.waits[path] = wait
        wait.join_in(watch)
        return wait


class _Own:
    """What this process has, and no child that it forks."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.guard = threading.Lock()  # a new one: another thread may have held the old while we were forked
        self.locks: dict[Path, ProcessLock] = {}
        self.waits: dict[Path, _Wait] = {}


_own = _Own()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_own.forget)


# --- the files ------------------------------------------------------------------------------------


def _folder_of(database: Path) -> Path:
    real = Path(os.path.realpath(database))  # whatever links lead to it, all must mean one folder
    return real.with_name(real.name + ".owners")


def _file_of(database: Path, name: str) -> Path:
    return _folder_of(database) / f"{name}.lock"


def _is_own(database: Path, name: str) -> bool:
    lock = _own.locks.get(_folder_of(database))
    return lock is not None and lock.name == name


def _make_locked_file(folder: Path) -> tuple[Path, int]:
    path = folder / f"{uuid.uuid4()}.lock"
    try:
        fd = _create(path)
        _lock(fd)
    except OSError as e:
        raise StorageError(
            f"{folder} cannot be used: {e}. Each process keeps a locked file there; make it writable, on a local disk."
        ) from e
    return path, fd


def _create(path: Path) -> int:
    while True:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # the last of the others has just left, and removed the folder
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def _remove_locked_file(path: Path, fd: int) -> None:
    if sys.platform == "win32":
        os.close(fd)  # an open file cannot be removed
        fd = -1
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()  # refused while others have their files in it
    if fd >= 0:
        os.close(fd)


def _open_others(path: Path) -> int | None:
    """Never our own: closing any descriptor of a file gives up all POSIX locks that this process has on it."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


# --- the locks ------------------------------------------------------------------------------------
#
# The holder's lock is exclusive, of the POSIX kind, which belongs to the process: a child that it forked
# does not keep it. (flock's belongs to the descriptor, which a child inherits.) All others ask for a
# shared one, so that they never stand in each other's way.

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _is_locked(fd: int) -> bool:
        # There is no shared kind. Two who look at a free one in the same moment may see each other;
        # whoever sees life looks again.
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return True
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        return False

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_locked(fd: int) -> bool:
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX lets systems answer with either
            return True
        fcntl.lockf(fd, fcntl.LOCK_UN)
        return False


def _wait_until_free(fd: int) -> None:
    if not _wait_in_kernel(fd):
        while _is_locked(fd):
            time.sleep(POLL)


if sys.platform == "linux":
    _SHARED = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    """A struct flock: type, whence, start, length (0: all of it), pid."""

    def _wait_in_kernel(fd: int) -> bool:
        # Of the open-file-description kind, because these take no part in deadlock detection: with POSIX
        # locks, whoever closes the ring in which processes wait for each other is answered EDEADLK.
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _SHARED)
        except OSError:
            return False  # not Linux's own kernel
        return True

else:

    def _wait_in_kernel(fd: int) -> bool:
        return False
