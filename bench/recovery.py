"""From the start of a process until all calls run again that were in flight when its predecessor was killed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from bench.child import running
from bench.promises import Effort, Measured

CALLS = 10_000

LIMIT = 5.0


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file = effort.folder / "recovery.db"
    async with running("bench.holder", file, str(CALLS), str(CALLS)) as first:
        await first.hear("all")
        await first.kill()
    began = time.monotonic()
    async with running("bench.holder", file, "0", str(CALLS)) as second:
        await second.hear("open")
        opened = time.monotonic() - began
        took = float(await second.hear("all")) - began
    yield Measured("recovery", f"{took:.2f} s, of which {opened:.2f} s until the file was open", took <= LIMIT)
