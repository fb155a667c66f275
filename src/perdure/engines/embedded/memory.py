"""A journal in memory, for trials and throwaway servers: the tables and statements of the file, without the file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from perdure.engines.embedded.journal import Read, Then, Write
from perdure.engines.embedded.ledger import PAYLOAD_LIMIT, Ledger, answer, perform
from perdure.engines.embedded.schema import migrate
from perdure.engines.embedded.writer import Probe
from perdure.errors import StorageError

T = TypeVar("T")


class MemoryJournal:
    """It outlives its engine: opened again it has all that was written, and nobody hears of what came before.

    A write is performed at once; what it led to is told in the loop's next round. Where `probe` raises, the
    process is as good as dead: nothing is written and nothing told until the journal is opened again.
    """

    def __init__(
        self,
        *,
        payload_limit: int = PAYLOAD_LIMIT,
        probe: Probe | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self._ledger = Ledger(self._connection, clock, payload_limit)
        # Not `__del__`: of a journal in a cycle it may come after the connection's own end.
        weakref.finalize(self, self._connection.close)
        self.probe = probe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life = 0
        self._is_dead = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._life += 1
        self._is_dead = False
        migrate(self._connection, "the journal in memory")

    async def close(self) -> None:
        """What was written stays."""
        await asyncio.sleep(0)  # completions go before
        self._loop = None

    def write(self, write: Write[Any], then: Then) -> None:
        if self._loop is None:
            raise StorageError("The journal is not open.")
        if self._is_dead:
            return
        if not self._survives(write, "before"):
            return
        result, error = self._perform(write)
        if self._survives(write, "after"):
            self._loop.call_soon(self._tell, self._life, then, result, error)

    def write_soon(self, write: Write[None]) -> None:
        self.write(write, _nobody)

    async def read(self, read: Read[T]) -> T:
        return answer(self._ledger, read)

    @property
    def changed_elsewhere(self) -> bool:
        return False

    def _survives(self, write: Write[Any], when: Literal["before", "after"]) -> bool:
        if self.probe is not None:
            try:
                self.probe(type(write).__name__, when)
            except Exception:
                self._is_dead = True
        return not self._is_dead

    def _perform(self, write: Write[Any]) -> tuple[Any, BaseException | None]:
        execute = self._connection.execute
        execute("BEGIN")
        try:
            result = perform(self._ledger, write)
        except Exception as error:
            execute("ROLLBACK")
            return None, error
        execute("COMMIT")
        return result, None

    def _tell(self, life: int, then: Then, result: Any, error: BaseException | None) -> None:
        if life == self._life and not self._is_dead:
            then(result, error)


def _nobody(_result: None, _error: BaseException | None) -> None:
    pass
