"""Those who wait for a call to change: each gets the newest view, and misses nothing that lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from perdure.engine import CallView


class Watchers:
    """Who watches which call in this process."""

    def __init__(self) -> None:
        self._watching: dict[str, set[_Watcher]] = {}

    @property
    def call_ids(self) -> Iterable[str]:
        return tuple(self._watching)

    def publish(self, view: CallView) -> None:
        for watcher in self._watching.get(view.id, ()):
            watcher.see(view)

    async def watch(
        self, call_id: str, after: int, look: Callable[[str], Awaitable[CallView]]
    ) -> AsyncIterator[CallView]:
        """Each view newer than version `after`; `look` gives the present one."""
        watcher = _Watcher()
        # Watched before it is looked at: a change in between is seen twice rather than not at all.
        self._watching.setdefault(call_id, set()).add(watcher)
        try:
            view = await look(call_id)
            while True:
                if view.version > after:
                    after = view.version
                    yield view
                if view.is_over:
                    return
                view = await watcher.next()
        finally:
            watching = self._watching[call_id]
            watching.discard(watcher)
            if not watching:
                del self._watching[call_id]


class _Watcher:
    def __init__(self) -> None:
        self._newest: CallView | None = None
        self._woken: asyncio.Future[None] | None = None

    def see(self, view: CallView) -> None:
        self._newest = view
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def next(self) -> CallView:
        while self._newest is None:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        view, self._newest = self._newest, None
        return view
