"""What importing perdure adds where the SDK's server is imported: with the names that a server uses, for bare
`import perdure` imports next to nothing."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from statistics import median

from bench.child import ROOT
from bench.promises import Effort, Measured
from bench.rounds import ms

LIMIT = 60e-3

PROGRAM = """
from time import perf_counter, process_time
import mcp.server.mcpserver
began, computed = perf_counter(), process_time()
from perdure import DurableContext, DurableMCP, Signal, step
print(perf_counter() - began, process_time() - computed)
"""


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    runs = [await _import() for _ in range(effort.of(15, 5))]
    took, computed = (median(taken) for taken in zip(*runs, strict=True))
    # Imports only compute. Their CPU time is the same on a busy machine.
    yield Measured("startup", f"{ms(computed)} of CPU; {ms(took)} went by", computed <= LIMIT)


async def _import() -> tuple[float, float]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=PIPE, cwd=ROOT)
    said, _ = await process.communicate()
    took, computed = map(float, said.split())
    return took, computed
