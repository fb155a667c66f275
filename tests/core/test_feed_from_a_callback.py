"""Feeding a body where no task runs: an engine hears of its commits in callbacks of the loop."""

from __future__ import annotations

import asyncio

from perdure.core.body import Body
from perdure.core.commands import Complete
from perdure.core.events import Started


async def answer(_: Body) -> bytes:
    await asyncio.sleep(0)
    return b"done"


def feed() -> object:
    return Body(answer, call_id="call").feed(Started(0.0, 1, "3"))


async def test_a_body_can_be_fed_in_a_callback_and_in_a_task() -> None:
    loop = asyncio.get_running_loop()
    fed: asyncio.Future[object] = loop.create_future()

    def call_back() -> None:
        try:
            fed.set_result(feed())
        except Exception as error:
            fed.set_exception(error)

    loop.call_soon(call_back)
    assert await fed == feed() == [Complete(b"done")]
    assert asyncio.current_task() is not None
