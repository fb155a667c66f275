"""Calls as tasks over HTTP, from their creation until they show completed, beside those of fastmcp-tasks.

Ours are on disk before their ids leave, and once more when they end; the rival's are in its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from time import perf_counter
from typing import Any

from bench.child import Child, running
from bench.http import url_of
from bench.promises import Effort, Measured
from bench.rival import rival_python, rival_version
from bench.rounds import medians, ms
from bench.wire import Wire, connected

CONCURRENT = 32

_numbers = count()


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file = effort.folder / "tasks.db"
    async with (
        running("bench.task_server", file) as ours,
        running("bench.rival_server", python=rival_python()) as rival,
    ):
        our_url, rival_url = await url_of(ours), await url_of(rival)
        async with connected(our_url, 1) as (to_us,), connected(rival_url, 1) as (to_rival,):
            took = await medians(
                {"ours": lambda: complete(to_us), "rival": lambda: complete(to_rival)},
                rounds=effort.of(100, 15),
                each=5,
            )
        figure = f"{ms(took['ours'])}; {rival_version()} in memory {ms(took['rival'])}"
        yield Measured("tasks-one", figure, took["ours"] < took["rival"])
        loads = Load(ours, our_url), Load(rival, rival_url)
        for _ in range(effort.of(6, 2)):
            for load in loads:
                await load.run(effort.of(500, 60))
    our_load, rival_load = loads
    figure = f"{our_load}; {rival_version()} in memory {rival_load}"
    yield Measured("tasks-load", figure, our_load.per_second > rival_load.per_second)


async def complete(wire: Wire) -> int:
    """Create a task, and look at it until it is completed; how many looks that took."""
    number = next(_numbers)
    created = await wire.ask("tools/call", {"name": "add", "arguments": {"a": number, "b": 1}}, name="add")
    task_id = created["taskId"]
    looks = 0
    task: dict[str, Any] = {"status": "working"}
    while task["status"] == "working":
        task = await wire.ask("tasks/get", {"taskId": task_id}, name=task_id)
        looks += 1
    if task["status"] != "completed" or task["result"]["structuredContent"] != {"result": number + 1}:
        raise RuntimeError(f"add became {task}")
    return looks


class Load:
    """Tasks of many clients at once, in small rounds. Each has connections of its own: servers close idle ones."""

    def __init__(self, server: Child, url: str) -> None:
        self._server = server
        self._url = url
        self._tasks = 0
        self._looks = 0
        self._seconds = 0.0
        self._computed = 0.0

    async def run(self, tasks: int) -> None:
        async with connected(self._url, CONCURRENT) as wires:
            began, before = perf_counter(), self._server.computed()
            wishes = iter(range(tasks))
            await asyncio.gather(*(self._client(wire, wishes) for wire in wires))
            self._seconds += perf_counter() - began
            self._computed += self._server.computed() - before
        self._tasks += tasks

    async def _client(self, wire: Wire, wishes: Iterator[int]) -> None:
        for _ in wishes:
            looks = await complete(wire)
            self._looks += looks

    @property
    def per_second(self) -> float:
        return self._tasks / self._seconds

    def __str__(self) -> str:
        computed, looks = self._computed / self._tasks, self._looks / self._tasks
        return f"{self.per_second:.0f}/s, {ms(computed)} of CPU and {looks:.1f} looks each"
