"""One request that waits for its call, and what it hears until then. All of it is sent from the request's own task.

So a client that does not read holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import CallView, Engine
from perdure.protocol.conversation import Conversation
from perdure.protocol.progress import Pulse


class Waiting:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._news: list[SendLog | NotifyChange] = []
        self._stop: Exception | None = None
        self._scope: asyncio.Timeout | None = None

    def tell(self, what: SendLog | NotifyChange) -> None:
        """Something for the client to hear, in order."""
        self._news.append(what)
        self._wake()

    def stop(self, why: Exception) -> None:
        """Wait no longer: `until_over` raises this."""
        self._stop = why
        self._wake()

    def _wake(self) -> None:
        # Its time is up at once: waiting for two things costs no task and no event where only one of them happens.
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def until_over(self, engine: Engine, call_id: str) -> CallView:
        """The view of a call that has ended, or that is stuck."""
        loop = asyncio.get_running_loop()
        pulse = Pulse(self._conversation, loop.time())
        views = engine.watch(call_id)
        view: CallView | None = None
        while True:
            if not self._news and self._stop is None:
                scope = self._scope = asyncio.timeout_at(pulse.due)
                try:
                    async with scope:
                        view = await _next_to_tell(views, pulse)
                except TimeoutError:
                    if not scope.expired():
                        raise
                    views = engine.watch(call_id, -1 if view is None else view.version)  # the interrupted one has ended
                finally:
                    self._scope = None
            await self._say_news()
            if pulse.has_news or loop.time() >= pulse.due:
                await pulse.beat(loop.time())
            if view is not None and _is_settled(view):
                return view
            if self._stop is not None:
                raise self._stop

    async def _say_news(self) -> None:
        while self._news:
            what = self._news.pop(0)
            if isinstance(what, SendLog):
                await self._conversation.log(what)
            else:
                await self._conversation.changed(what)


async def _next_to_tell(views: AsyncIterator[CallView], pulse: Pulse) -> CallView:
    """The next view of which the client hears."""
    async for view in views:
        if pulse.follow(view) or _is_settled(view):
            return view
    raise AssertionError("a watch ended before its call")


def _is_settled(view: CallView) -> bool:
    return view.is_over or view.status == "stuck"
