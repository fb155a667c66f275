"""The threads of a worker, for steps that are not async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from perdure.core.record import record
from perdure.engines.embedded.slots import Slots


@record
class ThreadOutcome:
    """What a thread came to: neither futures nor coroutines can pass on a StopIteration."""

    value: Any
    error: BaseException | None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Threads:
    """Who runs something takes a slot first, so that it begins at once and its time is its own."""

    def __init__(self, count: int) -> None:
        self.slots = Slots(count)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="perdure-step")

    def run(self, function: Callable[[], Any]) -> Future[ThreadOutcome]:
        """In a copy of this context. Its slot is free again when it ends, also where nobody waits for that any more."""
        loop = asyncio.get_running_loop()

        def free(_: Future[ThreadOutcome]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.slots.give_back)

        running = self._pool.submit(copy_context().run, _outcome_of, function)
        running.add_done_callback(free)
        return running

    def end(self) -> None:
        """Nothing begins any more; what runs cannot be stopped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcome_of(function: Callable[[], Any]) -> ThreadOutcome:
    try:
        return ThreadOutcome(function(), None)
    except BaseException as error:
        return ThreadOutcome(None, error)
