"""One request that waits for its call, and what it hears until then. All of it is sent from the request's own task.

So a client that does not read holds up nobody but itself.
"""

from __future__ import annotations

import asyncio

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
        # An expiring time-out interrupts the wait at no cost to those that nothing interrupts: no task, no event.
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def until_over(self, engine: Engine, call_id: str) -> CallView:
        """The view of a call that has ended, or that is stuck."""
        loop = asyncio.get_running_loop()
        pulse = Pulse(self._conversation, loop.time())
        views = engine.watch(call_id)
        seen = -1
        while True:
            view: CallView | None = None
            if not self._news and self._stop is None:
                try:
                    async with asyncio.timeout_at(pulse.due) as self._scope:
                        view = await anext(views)
                except TimeoutError:
                    if self._scope is None or not self._scope.expired():
                        raise
                    views = engine.watch(call_id, seen)  # the interrupted one has ended
                except StopAsyncIteration:
                    view = await engine.get(call_id)
                finally:
                    self._scope = None
            await self._say_news()
            if view is not None:
                seen = view.version
                await pulse.follow(view, loop.time())
                if view.is_over or view.status == "stuck":
                    return view
            if self._stop is not None:
                raise self._stop
            if loop.time() >= pulse.due:
                await pulse.beat(loop.time())

    async def _say_news(self) -> None:
        while self._news:
            what = self._news.pop(0)
            if isinstance(what, SendLog):
                await self._conversation.log(what)
            else:
                await self._conversation.changed(what)
