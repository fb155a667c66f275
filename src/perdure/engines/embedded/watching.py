"""Those who wait for a call to change: each gets the newest view, and misses nothing that lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from perdure.engine import CallView
from perdure.errors import CallNotFound

Look = Callable[[str], Awaitable[CallView]]


class Watchers:
    """Who watches which call in this process."""

    def __init__(self) -> None:
        self._watching: dict[str, list[_Watcher]] = {}

    @property
    def call_ids(self) -> Iterable[str]:
        return tuple(self._watching)

    def publish(self, view: CallView) -> None:
        for watcher in self._watching.get(view.id, ()):
            watcher.see(view)

    def lose(self, gone: CallNotFound) -> None:
        """The call was kept long enough, and nobody here has seen its end."""
        for watcher in self._watching.get(gone.call_id, ()):
            watcher.lose(gone)

    def watch(self, call_id: str, after: int, look: Look) -> AsyncIterator[CallView]:
        """Each view newer than version `after`; `look` gives the present one."""
        return _Watch(self, call_id, after, look)

    def add(self, call_id: str, watcher: _Watcher) -> None:
        self._watching.setdefault(call_id, []).append(watcher)

    def remove(self, call_id: str, watcher: _Watcher) -> None:
        watching = self._watching[call_id]
        watching.remove(watcher)
        if not watching:
            del self._watching[call_id]


class _Watcher:
    """Where the newest view waits to be taken."""

    __slots__ = ("gone", "newest", "woken")

    def __init__(self) -> None:
        self.newest: CallView | None = None
        self.gone: CallNotFound | None = None
        self.woken: asyncio.Future[None] | None = None

    def see(self, view: CallView) -> None:
        if self.newest is not None and self.newest.is_over:
            return  # what was read before the end may come after it
        self.newest = view
        self._wake()

    def lose(self, gone: CallNotFound) -> None:
        self.gone = gone
        self._wake()

    def _wake(self) -> None:
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """Until the next view is there."""
        self.woken = asyncio.get_running_loop().create_future()
        return self.woken


class _Watch(AsyncIterator[CallView]):
    # No async generator: most watches are left at the end of their call, and to finalize a generator that was
    # left takes asyncio a task and a system call.

    def __init__(self, watchers: Watchers, call_id: str, after: int, look: Look) -> None:
        self._watchers = watchers
        self._call_id = call_id
        self._after = after
        self._look = look
        self._watcher: _Watcher | None = None
        self._is_over = False

    async def __anext__(self) -> CallView:
        while not self._is_over:
            if (watcher := self._watcher) is None:
                # Watched before it is looked at: a change in between is seen twice rather than not at all.
                self._watcher = _Watcher()
                self._watchers.add(self._call_id, self._watcher)
                view = await self._look(self._call_id)
            else:
                while (newest := watcher.newest) is None:
                    if watcher.gone is not None:
                        self._is_over = True
                        raise watcher.gone
                    await watcher.wait()
                view, watcher.newest = newest, None
            self._is_over = view.is_over
            if view.version > self._after:
                self._after = view.version
                return view
        raise StopAsyncIteration

    def __del__(self) -> None:
        if self._watcher is not None:
            self._watchers.remove(self._call_id, self._watcher)
