"""The engine alone: one call at a time against the disk, then many at once, and how long the loop stalls.

Beside each figure is that of the floor: what the disk, SQLite and the changes of thread take of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter, process_time, thread_time

from bench.disk import open_disk
from bench.floor import Floor, open_floor
from bench.functions import ONE, TEN, WHOLE, call
from bench.promises import Effort, Measured
from bench.rounds import medians, ms
from perdure.engine import Engine
from perdure.engines.embedded.engine import Embedded

CONCURRENT = 32

TICK = 0.001
"""Seconds between two looks at whether the loop still turns."""


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    engine = Embedded(effort.folder / "engine.db")
    async with open_floor(effort.folder) as floor, engine.serve((ONE, TEN, WHOLE)):
        async for measured in _one_at_a_time(engine, floor, effort):
            yield measured
        async for measured in _at_once(engine, floor, effort):
            yield measured


async def _one_at_a_time(engine: Engine, floor: Floor, effort: Effort) -> AsyncIterator[Measured]:
    with open_disk(effort.folder) as disk:
        took = await medians(
            {
                "disk": disk.write,
                "body": lambda: call(engine, ONE),
                "whole": lambda: call(engine, WHOLE),
                "ten": lambda: call(engine, TEN),
                "floor 2": floor.call,
                "floor 11": lambda: floor.call(steps=10),
            },
            rounds=effort.of(60, 10),
            each=8,
        )
    d = took["disk"]
    for name, commits, more in (("body", 2, 0.4e-3), ("whole", 2, 0.4e-3), ("ten", 11, 1e-3)):
        over, floor_over = took[name] - commits * d, took[f"floor {commits}"] - commits * d
        figure = f"{ms(took[name])} = {commits} d + {ms(over)}; the floor {commits} d + {ms(floor_over)}"
        yield Measured(f"engine-{name}", figure, over <= more)


async def _at_once(engine: Engine, floor: Floor, effort: Effort) -> AsyncIterator[Measured]:
    kinds = (("body", ONE, 4000, 1), ("whole", WHOLE, 4000, 1), ("ten", TEN, 800, 10))
    loads: dict[str, list[_Load]] = {name: [] for name, *_ in kinds}
    floors: dict[int, list[_Load]] = {1: [], 10: []}
    for _ in range(effort.of(5, 2)):
        for name, function, calls, _steps in kinds:
            loads[name].append(await _load(partial(call, engine, function), calls))
        for steps, calls in ((1, 4000), (10, 800)):
            floors[steps].append(await _load(partial(floor.call, steps), calls))
    for name, _function, _calls, steps in kinds:
        rate = median(load.rate for load in loads[name]) * steps
        cpu = min(loads[name], key=lambda load: load.process_cpu)
        unit, least = ("calls/s", 8_000) if steps == 1 else ("steps/s", 16_000)
        figure = (
            f"{rate:,.0f} {unit}; CPU per call {cpu.loop_cpu * 1e6:.0f} µs in the loop, {cpu.others * 1e6:.0f} beside; "
            f"the floor {median(load.rate for load in floors[steps]) * steps:,.0f}"
        )
        yield Measured(f"load-{name}", figure, rate >= least)

    stall = _Stall()
    async with stall:
        for _name, function, calls, _steps in kinds:
            await _load(partial(call, engine, function), calls)
    figure = f"{ms(stall.longest)}, of which the loop's thread computed for {ms(stall.computing)}"
    yield Measured("load-stall", figure, stall.longest <= 15e-3)


@dataclass(frozen=True, slots=True)
class _Load:
    rate: float
    process_cpu: float
    loop_cpu: float

    @property
    def others(self) -> float:
        return self.process_cpu - self.loop_cpu


async def _load(one: Callable[[], Awaitable[object]], calls: int) -> _Load:
    wishes = iter(range(calls))

    async def client() -> None:
        for _ in wishes:
            await one()

    began, cpu, loop_cpu = perf_counter(), process_time(), thread_time()
    await asyncio.gather(*(client() for _ in range(CONCURRENT)))
    took, cpu, loop_cpu = perf_counter() - began, process_time() - cpu, thread_time() - loop_cpu
    return _Load(calls / took, cpu / calls, loop_cpu / calls)


class _Stall:
    """How late the loop came to what was due, at worst: in seconds, and in seconds of its own computing."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.computing = 0.0

    async def __aenter__(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def _watch(self) -> None:
        while True:
            before, computed = perf_counter(), thread_time()
            await asyncio.sleep(TICK)
            late = perf_counter() - before - TICK
            if late > self.longest:
                self.longest, self.computing = late, thread_time() - computed
