"""One signal of a body: the values that nobody has received yet, and those who wait for one."""

from __future__ import annotations

import asyncio
from collections import deque


class SignalBuffer:
    """First come, first served, on both sides."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._values: deque[bytes] = deque()
        self._receivers: deque[asyncio.Future[bytes]] = deque()

    def put(self, value: bytes) -> None:
        if self._receivers:
            # It wakes before anything else runs in this feed: nothing can cancel it in between.
            self._receivers.popleft().set_result(value)
        else:
            self._values.append(value)

    async def take(self) -> bytes:
        """A take that is cancelled takes nothing."""
        if self._values:
            return self._values.popleft()
        receiver = self._loop.create_future()
        self._receivers.append(receiver)
        try:
            return await receiver
        except BaseException:
            self._receivers.remove(receiver)
            raise
