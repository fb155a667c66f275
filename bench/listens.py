"""Clients that listen, each to a task of its own: what a stream costs, and when news of the task are there.

Beside the streams of a plain server, which the SDK lets have 1,024 of them, and whose clients listen to its tools.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from statistics import median
from time import perf_counter
from typing import Any

from bench.child import Child, running
from bench.http import url_of
from bench.open_files import allow_connections
from bench.promises import Effort, Measured
from bench.rounds import ms
from bench.task_server import ids_beside
from bench.waiting_tasks import answer
from bench.wire import Wire, connect, connected

STREAMS = 10_000
QUICK = 1_000
PLAIN = 1_000

AT_ONCE = 32
"""Clients that begin to listen."""

TOLD = 200

LIMIT = 1.5
"""Times the memory of a plain server's stream."""

LONGEST_NEWS = 20e-3


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    plain = await _plain()
    file, streams = effort.folder / "listens.db", allow_connections(effort.of(STREAMS, QUICK))
    async with running("bench.task_server", file, str(streams)) as filling:
        await filling.hear("filled")
    async with running(
        "bench.task_server", file
    ) as server:  # another one: in the first, streams get the bodies' memory
        url = await url_of(server)
        task_ids = ids_beside(file).read_text().split()
        filters = ({"taskIds": [task_id]} for task_id in task_ids)
        async with listening(server, url, filters, first_words=2) as (ours, listeners):
            took = await _times_to_tell(url, dict(zip(task_ids, listeners, strict=True)))
    figure = (
        f"{ours / 1e3:.1f} kB each of {streams:,}, {ours / plain:.2f} × plain: {plain / 1e3:.1f} kB each of {PLAIN:,}"
    )
    yield Measured("listens-memory", figure, ours <= LIMIT * plain)
    figure = f"{ms(median(took))}, worst of {TOLD} {ms(max(took))}"
    yield Measured("listens-news", figure, median(took) <= LONGEST_NEWS)


async def _plain() -> float:
    async with running("bench.plain_server", "http") as server:
        filters = ({"toolsListChanged": True} for _ in range(PLAIN))
        async with listening(server, await url_of(server), filters, first_words=1) as (each, _):
            return each


class Listener:
    """A stream, and what came on it last."""

    def __init__(self, wire: Wire, asked_for: dict[str, Any]) -> None:
        self._wire = wire
        self._messages = wire.messages("subscriptions/listen", {"notifications": asked_for})

    async def next(self) -> dict[str, Any]:
        return await anext(self._messages)

    def close(self) -> None:
        self._wire.close()


@asynccontextmanager
async def listening(
    server: Child, url: str, filters: Iterable[dict[str, Any]], *, first_words: int
) -> AsyncGenerator[tuple[float, Sequence[Listener]]]:
    """So many streams as there are filters, and the bytes of each in the server once it has said its first words."""
    filters = list(filters)
    listeners: list[Listener] = []

    async def begin(asked_for: dict[str, Any]) -> Listener:
        async with gate:
            listener = Listener(await connect(url), asked_for)
            listeners.append(listener)
            for _ in range(first_words):
                await listener.next()
            return listener

    gate = asyncio.Semaphore(AT_ONCE)
    before = 0.0
    try:
        async with connected(url, AT_ONCE) as wires:  # what a first request makes is no stream's
            await asyncio.gather(*(wire.ask("tools/list", {}) for wire in wires))
        before = server.resident()
        in_order = await asyncio.gather(*(begin(each) for each in filters))
        yield (server.resident() - before) / len(filters), in_order
    finally:
        for listener in listeners:
            listener.close()


async def _times_to_tell(url: str, listeners: dict[str, Listener]) -> list[float]:
    """Seconds from the answer that a task waited for until its listener has heard that it is completed."""
    took: list[float] = []
    async with connected(url, 1) as (wire,):
        for task_id in random.sample(list(listeners), TOLD):
            hearing = asyncio.create_task(_completed(listeners[task_id]))
            began = perf_counter()
            await answer(wire, task_id)
            took.append(await hearing - began)
    return took


async def _completed(listener: Listener) -> float:
    """When it heard that."""
    while (await listener.next())["params"].get("status") != "completed":
        pass
    return perf_counter()
