"""Measuring things side by side: in small rounds that take turns, so that a busy neighbour hits all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from time import perf_counter

WARM_UP = 20


async def medians(what: Mapping[str, Callable[[], Awaitable[object]]], *, rounds: int, each: int) -> dict[str, float]:
    """The median seconds of one run of each."""
    times: dict[str, list[float]] = {name: [] for name in what}
    for run in what.values():
        for _ in range(WARM_UP):
            await run()
    for _ in range(rounds):
        for name, run in what.items():
            for _ in range(each):
                began = perf_counter()
                await run()
                times[name].append(perf_counter() - began)
    return {name: median(taken) for name, taken in times.items()}


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
