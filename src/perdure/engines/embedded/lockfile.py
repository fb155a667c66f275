"""The lock file beside the database: one journal at a time writes a batch.

SQLite's own lock would do, but whoever waits for it sleeps and tries again, which is unkind to the tail; here
the kernel wakes the next one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("perdure")

PATIENCE = 5.0
"""Seconds of waiting after which the holder is named."""


class LockFile:
    """Its own descriptor makes it exclude other journals of this process too. One thread at a time uses it."""

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._path = path
        self.patience = patience
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._holder = b"%10d\n" % os.getpid()
        self._impatience: _Impatience | None = None
        _open_files.add(self)

    def __enter__(self) -> None:
        if not _try_to_lock(self._fd):
            self._wait()
        with suppress(OSError):  # no room for the name: then nobody is named
            self._note_holder()

    def __exit__(self, *_: object) -> None:
        _unlock(self._fd)

    def close(self) -> None:
        _open_files.discard(self)
        if self._impatience is not None:
            self._impatience.stop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close_in_child(self) -> None:
        """A forked child would keep the lock of a parent that died."""
        with suppress(OSError):
            os.close(self._fd)
        self._fd = -1

    def _wait(self) -> None:
        if self._impatience is None:
            self._impatience = _Impatience(self)
        self._impatience.begin()
        try:
            _lock(self._fd)
        finally:
            self._impatience.end()

    def _note_holder(self) -> None:
        # Written only when it changes: a dirty file would make each commit's sync dearer.
        if self._read_holder() != self._holder:
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, self._holder)

    def _read_holder(self) -> bytes:
        if sys.platform != "win32":
            return os.pread(self._fd, 32, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.read(self._fd, 32)

    def name_holder(self) -> None:
        holder = b""
        with suppress(OSError):
            holder = self._read_holder()
        log.warning(
            "Waiting for %s for %g s, which process %s holds. If it is stopped, continue it or end it.",
            self._path,
            self.patience,
            holder.decode().strip() or "(unknown)",
        )


class _Impatience:
    """A thread that speaks up when one wait has taken too long; it sleeps while nobody waits."""

    def __init__(self, lock: LockFile) -> None:
        self._lock = lock
        self._changed = threading.Condition()
        self._since: float | None = None
        self._is_asleep = False
        self._is_stopped = False
        threading.Thread(target=self._run, name="perdure-lock-watch", daemon=True).start()

    def begin(self) -> None:
        with self._changed:
            self._since = time.monotonic()
            if self._is_asleep:
                self._changed.notify()

    def end(self) -> None:
        self._since = None

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            named: float | None = None
            while not self._is_stopped:
                since = self._since
                self._is_asleep = since is None or since == named
                left = None if since is None or self._is_asleep else since + self._lock.patience - time.monotonic()
                if left is None or left > 0:
                    self._changed.wait(left)
                else:
                    named = since
                    self._lock.name_holder()


_open_files: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _close_in_child() -> None:
    for file in list(_open_files):
        file.close_in_child()
    _open_files.clear()


if sys.platform == "win32":
    import msvcrt

    LOCKED_BYTE = 1024  # a locked region cannot be read by others: not the one with the name

    def _try_to_lock(fd: int) -> bool:
        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _lock(fd: int) -> None:
        while not _try_to_lock(fd):
            time.sleep(0.001)  # LK_LOCK would sleep for a second at a time

    def _unlock(fd: int) -> None:
        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    os.register_at_fork(after_in_child=_close_in_child)

    def _try_to_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
