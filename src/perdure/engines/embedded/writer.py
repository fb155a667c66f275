"""The writer thread: group commit, and what becomes of units when the disk, a lock or a neighbour is in their way.

Whatever is queued when it looks is one transaction. A unit that fails before it wrote anything fails alone;
if one fails later, the batch is rolled back and performed again with a savepoint around each unit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from perdure.engines.embedded.checkpoints import Checkpoints
from perdure.engines.embedded.faults import Fault, fault_of, storage_error
from perdure.engines.embedded.journal import Then, Write
from perdure.engines.embedded.ledger import BEGINS_CALLS, Ledger, perform
from perdure.engines.embedded.lockfile import LockFile
from perdure.errors import StorageError

log = logging.getLogger("perdure")

Probe = Callable[[str, Literal["before", "after"]], None]
"""Called with the name of a write's class right before it is performed, and after its commit. Where it raises, the
process is as good as dead: nothing more is written, nobody is told."""

RETRY_AFTER = 1.0
"""Seconds between two tries while there is no room."""

UNITS_AT_ONCE = 500
"""Of one transaction, about: others of this process and of its siblings wait for it."""

TELLING = 0.004
"""Seconds of telling what was committed after which the loop turns: each unit may make a body run."""

EXIT_CODE = os.EX_IOERR if hasattr(os, "EX_IOERR") else 74


class Queued:
    """A unit in the queue, and what came of it."""

    __slots__ = ("error", "result", "then", "write")

    def __init__(self, write: Write[Any], then: Then) -> None:
        self.write = write
        self.then = then
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """Owns the connection from `start` until the thread ends, except while `turn` is held by somebody else."""

    def __init__(
        self,
        path: str,
        ledger: Ledger,
        lock: LockFile,
        loop: asyncio.AbstractEventLoop,
        probe: Probe | None,
        on_fatal: Callable[[StorageError], None],
    ) -> None:
        self.turn = threading.Lock()
        self._path = path
        self._file = _identity(path)
        self._ledger = ledger
        self._connection = ledger.connection
        self._execute = ledger.connection.execute
        self._lock = lock
        self._loop = loop
        self._probe = probe
        self._on_fatal = on_fatal
        self._checkpoints = Checkpoints(ledger.connection, path)
        self._gathered: list[Queued] = []
        self._to_tell: deque[Queued] = deque()
        self._queue: queue.SimpleQueue[list[Queued] | None] = queue.SimpleQueue()
        self._is_held_up = False
        self._is_closing = False
        self._is_stopping = False
        self._data_version = self._read_data_version()
        self._told_version = self._data_version
        self._will_look = False
        # A daemon: an engine that was never closed must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="perdure-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, write: Write[Any], then: Then) -> None:
        """On the loop. What one turn of it puts goes over at its end: the thread would begin with the first alone."""
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(Queued(write, then))

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        for first in range(0, len(gathered), UNITS_AT_ONCE):
            self._queue.put(gathered[first : first + UNITS_AT_ONCE])

    async def stop(self) -> None:
        """Everything that was put is committed or has failed, and was told."""
        self.end()
        await asyncio.to_thread(self._thread.join)
        while self._to_tell:
            await asyncio.sleep(0)

    def end(self) -> None:
        """Whatever was put is still seen to, in the writer's thread."""
        self._is_closing = True  # what cannot be written now fails
        self._hand_over()
        self._queue.put(None)

    def has_changed_elsewhere(self) -> bool:
        """From any thread; while a batch is written it is looked at with the next one, and said when asked again."""
        self._will_look = True
        if self._thread.is_alive() and self.turn.acquire(blocking=False):
            try:
                self._look_elsewhere()
            finally:
                self.turn.release()
        told, self._told_version = self._told_version, self._data_version
        return told != self._told_version

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._write(self._take())
            self._close()
        except _Died:
            self._close()  # as if the process had
        except BaseException as error:  # a defect of ours, which must not look like a slow disk
            log.critical("The writer of %s failed inside; nothing is written any more.", self._path, exc_info=True)
            self._on_fatal(StorageError(f"The writer of {self._path} failed: {error!r}"))

    def _close(self) -> None:
        with self.turn, self._lock:
            self._connection.close()
        self._lock.close()

    def _take(self) -> list[Queued]:
        batch: list[Queued] = []
        units = self._queue.get()
        while units is not None:
            batch += units
            if len(batch) >= UNITS_AT_ONCE or not self._queue.qsize():
                return batch
            units = self._queue.get_nowait()
        self._is_stopping = True
        return batch

    def _write(self, batch: list[Queued]) -> None:
        """Until each unit is committed or has failed."""
        while batch:
            try:
                with self.turn, self._lock:
                    if not self._is_in_place():
                        batch = self._lose_file(batch)
                        continue
                    self._commit(batch)
                    self._tell(batch)
                    batch = []
                    self._go_on()
                    self._checkpoints.after_commit()
            except sqlite3.Error as error:
                batch = self._after_fault(batch, error)

    # --- one transaction ---

    def _commit(self, batch: list[Queued]) -> None:
        execute = self._execute
        try:
            execute("BEGIN IMMEDIATE")
            if self._will_look:
                self._look_elsewhere()
            if not self._perform_all(batch):
                execute("ROLLBACK")
                execute("BEGIN IMMEDIATE")
                self._perform_each(batch)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        if self._probe is not None:
            for unit in batch:
                self._pass_by(unit, "after")

    def _perform_all(self, batch: list[Queued]) -> bool:
        """False when a unit failed and had written something."""
        connection, ledger = self._connection, self._ledger
        for unit in batch:
            if self._probe is not None:
                self._pass_by(unit, "before")
            changes = connection.total_changes
            try:
                unit.result = perform(ledger, unit.write)
                unit.error = None
            except Exception as error:
                self._refuse(unit, error)
                if connection.total_changes != changes:
                    return False
        return True

    def _perform_each(self, batch: list[Queued]) -> None:
        for unit in batch:
            if self._probe is not None:
                self._pass_by(unit, "before")
            self._execute("SAVEPOINT unit")
            try:
                unit.result = perform(self._ledger, unit.write)
                unit.error = None
            except Exception as error:
                self._refuse(unit, error)
                self._execute("ROLLBACK TO unit")
            self._execute("RELEASE unit")

    def _refuse(self, unit: Queued, error: Exception) -> None:
        """The unit's own failure; raised again when it is everybody's."""
        fault = fault_of(error)
        if fault not in (Fault.UNIT, Fault.DAMAGED) or not self._connection.in_transaction:
            raise error
        unit.result = None
        unit.error = storage_error(error, self._path) if isinstance(error, sqlite3.Error) else error

    def _pass_by(self, unit: Queued, when: Literal["before", "after"]) -> None:
        assert self._probe is not None
        try:
            self._probe(type(unit.write).__name__, when)
        except BaseException as error:
            raise _Died from error

    # --- what can go wrong ---

    def _is_in_place(self) -> bool:
        try:
            return _identity(self._path) == self._file
        except FileNotFoundError:
            return False

    def _lose_file(self, batch: list[Queued]) -> list[Queued]:
        """SQLite would go on with a file that has no name any more, and nobody would find what was acknowledged."""
        gone = StorageError(
            f"{self._path} was deleted or replaced while it was served. What is written now would be lost."
        )
        self._on_fatal(gone)
        return self._fail(batch, gone)

    def _after_fault(self, batch: list[Queued], error: sqlite3.Error) -> list[Queued]:
        """What is to be tried again, after a while. An empty batch: only a checkpoint failed, and nothing is lost."""
        fault, refusal = fault_of(error), storage_error(error, self._path)
        if fault is Fault.UNKNOWN_STATE:
            self._on_fatal(refusal)
        if not batch:
            log.warning("%s", refusal)
            return []
        if fault in (Fault.NO_ROOM, Fault.LOCKED) and not self._is_closing:
            self._hold_up(refusal)
            return batch if fault is Fault.LOCKED else self._wait_for_room(batch, refusal)
        return self._fail(batch, refusal)

    def _hold_up(self, refusal: StorageError) -> None:
        if not self._is_held_up:
            self._is_held_up = True
            log.warning("%s Trying again until it works.", refusal)

    def _go_on(self) -> None:
        if self._is_held_up:
            self._is_held_up = False
            log.warning("%s is written again.", self._path)

    def _wait_for_room(self, batch: list[Queued], refusal: StorageError) -> list[Queued]:
        """Who can ask again is refused at once; what belongs to running calls is held."""
        until = time.monotonic() + RETRY_AFTER
        held = self._fail_new_calls(batch, refusal)
        while (left := until - time.monotonic()) > 0 and not self._is_stopping:
            try:
                units = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if units is None:
                self._is_stopping = True
            else:
                held += self._fail_new_calls(units, refusal)
        return held

    def _fail_new_calls(self, batch: list[Queued], refusal: StorageError) -> list[Queued]:
        new = [unit for unit in batch if type(unit.write) in BEGINS_CALLS]
        self._fail(new, refusal)
        return [unit for unit in batch if type(unit.write) not in BEGINS_CALLS]

    def _fail(self, batch: list[Queued], refusal: StorageError) -> list[Queued]:
        for unit in batch:
            unit.result, unit.error = None, refusal
        self._tell(batch)
        return []

    # --- telling ---

    def _tell(self, batch: list[Queued]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._complete, batch)
        except RuntimeError:
            log.debug("The loop of %s is closed: %d units have nobody to tell.", self._path, len(batch))

    def _complete(self, batch: list[Queued]) -> None:
        is_telling = bool(self._to_tell)
        self._to_tell.extend(batch)
        if not is_telling:
            self._tell_each()

    def _tell_each(self) -> None:
        to_tell, until = self._to_tell, time.monotonic() + TELLING
        try:
            while to_tell and time.monotonic() < until:
                self._tell_one(to_tell.popleft())
        finally:
            if to_tell:
                self._loop.call_soon(self._tell_each)

    def _tell_one(self, unit: Queued) -> None:
        try:
            unit.then(unit.result, unit.error)
        except Exception as error:
            message = f"perdure failed after {type(unit.write).__name__}"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _look_elsewhere(self) -> None:
        self._will_look = False
        self._data_version = self._read_data_version()

    def _read_data_version(self) -> int:
        """Changes when another connection commits, not with commits of this one."""
        return self._execute("PRAGMA data_version").fetchone()[0]


class _Died(BaseException):
    """The probe said so."""


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def end_process(error: StorageError) -> None:
    """What was not synced may or may not be on the disk, and the kernel does not say it twice: begin anew from it."""
    log.critical("%s Ending the process: only a new one can tell what is on the disk.", error)
    logging.shutdown()
    os._exit(EXIT_CODE)
