"""One signal of a body: the values that nobody has received yet, and those who wait for one."""

from __future__ import annotations

import asyncio


class SignalBuffer:
    """First come, first served, on both sides."""

    __slots__ = ("_loop", "_receivers", "_values")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Lists, because they are mostly empty, and an empty deque takes as much memory as the waiting task.
        self._values: list[bytes] = []
        self._receivers: list[asyncio.Future[bytes]] = []

    def put(self, value: bytes) -> None:
        if self._receivers:
            # It wakes before anything else runs in this feed: nothing can cancel it in between.
            self._receivers.pop(0).set_result(value)
        else:
            self._values.append(value)

    @property
    def values(self) -> tuple[bytes, ...]:
        """What came and was not taken."""
        return tuple(self._values)

    async def take(self) -> bytes:
        """A take that is cancelled takes nothing."""
        if self._values:
            return self._values.pop(0)
        receiver = self._loop.create_future()
        self._receivers.append(receiver)
        try:
            return await receiver
        except BaseException:
            self._receivers.remove(receiver)
            raise
