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
        self._values.append(value)
        self._serve()

    async def take(self) -> bytes:
        """A take that is cancelled takes nothing, even where it had been served already."""
        if self._values:
            return self._values.popleft()
        receiver = self._loop.create_future()
        self._receivers.append(receiver)
        try:
            return await receiver
        except BaseException:
            if receiver.done() and not receiver.cancelled():
                self._values.appendleft(receiver.result())
                self._serve()
            elif receiver in self._receivers:
                self._receivers.remove(receiver)
            raise

    def _serve(self) -> None:
        while self._values and self._receivers:
            receiver = self._receivers.popleft()
            if not receiver.done():
                receiver.set_result(self._values.popleft())
