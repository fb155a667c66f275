"""The engine alone: one call at a time against the disk, then many at once, and how long the loop stalls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time, thread_time

from bench.disk import open_disk
from bench.functions import ONE, TEN, WHOLE, call
from bench.promises import Effort, Measured
from bench.rounds import medians, ms
from perdure.engine import Engine, Function
from perdure.engines.embedded.engine import Embedded

CONCURRENT = 32

TICK = 0.001
"""Seconds between two looks at whether the loop still turns."""


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    engine = Embedded(effort.folder / "engine.db")
    async with engine.serve((ONE, TEN, WHOLE)):
        async for measured in _one_at_a_time(engine, effort):
            yield measured
        async for measured in _at_once(engine, effort):
            yield measured


async def _one_at_a_time(engine: Engine, effort: Effort) -> AsyncIterator[Measured]:
    with open_disk(effort.folder) as disk:
        took = await medians(
            {
                "disk": disk.write,
                "body": lambda: call(engine, ONE),
                "whole": lambda: call(engine, WHOLE),
                "ten": lambda: call(engine, TEN),
            },
            rounds=effort.of(60, 10),
            each=8,
        )
    d = took["disk"]
    for name, commits, more in (("body", 2, 0.4e-3), ("whole", 2, 0.4e-3), ("ten", 11, 1e-3)):
        figure = f"{ms(took[name])} = {commits} d + {ms(took[name] - commits * d)}"
        yield Measured(f"engine-{name}", figure, took[name] <= commits * d + more)


async def _at_once(engine: Engine, effort: Effort) -> AsyncIterator[Measured]:
    kinds = (("body", ONE, 4000, 1), ("whole", WHOLE, 4000, 1), ("ten", TEN, 800, 10))
    loads: dict[str, list[_Load]] = {name: [] for name, *_ in kinds}
    for _ in range(effort.of(5, 2)):
        for name, function, calls, _steps in kinds:
            loads[name].append(await _load(engine, function, calls))
    for name, _function, _calls, steps in kinds:
        rate = median(load.rate for load in loads[name]) * steps
        cpu = min(loads[name], key=lambda load: load.process_cpu)
        unit, least = ("calls/s", 8_000) if steps == 1 else ("steps/s", 16_000)
        figure = (
            f"{rate:,.0f} {unit}; CPU per call {cpu.loop_cpu * 1e6:.0f} µs in the loop, {cpu.others * 1e6:.0f} beside"
        )
        yield Measured(f"load-{name}", figure, rate >= least)

    stall = _Stall()
    async with stall:
        for _name, function, calls, _steps in kinds:
            await _load(engine, function, calls)
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


async def _load(engine: Engine, function: Function, calls: int) -> _Load:
    wishes = iter(range(calls))

    async def client() -> None:
        for _ in wishes:
            await call(engine, function)

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
