"""Work of the engine's own that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

log = logging.getLogger("perdure")


class Errands:
    """Each runs in an empty context: a request's would keep its token alive. What fails is logged, with `comfort`."""

    def __init__(self, comfort: str) -> None:
        self._comfort = comfort
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = False

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        if self._has_ended:
            errand.close()
            return
        task = asyncio.get_running_loop().create_task(errand, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def end(self) -> None:
        """Cancel all, and begin none any more."""
        self._has_ended = True
        for task in list(self._tasks):
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("perdure failed inside; %s", self._comfort, exc_info=error)
