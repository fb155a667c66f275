"""What the file grows by per recorded step, beyond what the step returned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from bench.functions import NONE, TEN, WHOLE, call
from bench.promises import Effort, Measured
from perdure.engine import Function
from perdure.engines.embedded.engine import Embedded

LIMIT = 400

STEPS = 10


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    calls = effort.of(4000, 500)
    without, with_ten, whole = [
        await _size(effort.folder / f"{function.tool}.db", function, calls) for function in (NONE, TEN, WHOLE)
    ]
    payload = len(str(calls))
    beyond = (with_ten - without) / (calls * STEPS) - payload
    figure = f"{beyond:.0f} bytes; a call without steps {without / calls:.0f}, a whole step {whole / calls:.0f}"
    yield Measured("journal-size", figure, beyond <= LIMIT)


async def _size(path: Path, function: Function, calls: int) -> int:
    """Of the file, closed, after so many calls."""
    engine = Embedded(path, durability="relaxed")
    async with engine.serve((function,)):
        wishes = iter(range(calls))

        async def client() -> None:
            for _ in wishes:
                await call(engine, function)

        await asyncio.gather(*(client() for _ in range(32)))
    return path.stat().st_size
