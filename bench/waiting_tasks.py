"""Tasks that wait for an answer of their client's user: what their server keeps of them, and how fast one goes on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from statistics import median
from time import perf_counter
from typing import Any

from bench.child import running
from bench.http import url_of
from bench.promises import Effort, Measured
from bench.rounds import ms
from bench.task_server import ids_beside
from bench.wire import Wire, connected

TASKS = 100_000
QUICK = 2_000

MOST_EACH = 2048
"""Bytes."""

LONGEST_ANSWER = 20e-3

ANSWERED = 200

FILLED_WITHIN = 900.0
"""Seconds: two minutes on two cores that nobody else uses."""

YES = {"action": "accept", "content": {"approve": True}}


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file, tasks = effort.folder / "waiting.db", effort.of(TASKS, QUICK)
    async with running("bench.task_server", file, str(tasks)) as server:
        await server.hear("open")
        empty = server.resident()
        await server.hear("filled", FILLED_WITHIN)
        url = await url_of(server)
        each = (server.resident() - empty) / tasks
        async with connected(url, 1) as (wire,):
            chosen = random.sample(ids_beside(file).read_text().split(), ANSWERED)
            before = server.computed()
            took = [await _time_to_end(wire, task_id) for task_id in chosen]
            computed = (server.computed() - before) / ANSWERED
    async with running("bench.task_server", file) as server:
        await url_of(server)
        found = (server.resident() - empty) / tasks
    figure = f"{each:,.0f} bytes each of {tasks:,}; in a process that found them {max(found, 0):,.0f}"
    yield Measured("waiting-memory", figure, each <= MOST_EACH)
    figure = f"{ms(median(took))}, worst of {ANSWERED} {ms(max(took))}; {ms(computed)} of CPU"
    yield Measured("waiting-answer", figure, median(took) <= LONGEST_ANSWER)


async def answer(wire: Wire, task_id: str) -> None:
    asking = await wire.ask("tasks/get", {"taskId": task_id}, name=task_id)
    answers = dict.fromkeys(asking["inputRequests"], YES)
    await wire.ask("tasks/update", {"taskId": task_id, "inputResponses": answers}, name=task_id)


async def _time_to_end(wire: Wire, task_id: str) -> float:
    """Seconds from the first look at what it asks until it shows completed."""
    began = perf_counter()
    await answer(wire, task_id)
    task: dict[str, Any] = {"status": "working"}
    while task["status"] in ("input_required", "working"):
        task = await wire.ask("tasks/get", {"taskId": task_id}, name=task_id)
    took = perf_counter() - began
    if task["status"] != "completed":
        raise RuntimeError(f"{task_id} became {task}")
    return took
