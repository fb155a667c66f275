"""From the SIGKILL of a process until the steps of its calls run in a sibling: all of 32 calls."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from bench.child import running
from bench.promises import Effort, Measured
from bench.rounds import ms

CALLS = 32

LIMIT = 50e-3


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    took = [await _take_over(effort.folder / f"takeover-{number}.db") for number in range(effort.of(9, 3))]
    figure = f"{ms(median(took))} for {CALLS} calls, median of {len(took)}; worst {ms(max(took))}"
    yield Measured("takeover", figure, median(took) <= LIMIT)


async def _take_over(file: Path) -> float:
    async with running("bench.holder", file, "0", str(CALLS)) as sibling:
        await sibling.hear("open")
        async with running("bench.holder", file, str(CALLS), str(CALLS)) as owner:
            await owner.hear("all")
            killed = time.monotonic()
            await owner.kill()
            return float(await sibling.hear("all")) - killed
