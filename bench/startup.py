"""What importing perdure adds where the SDK's server is imported: the names that a server uses, or none of them."""

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
from time import perf_counter
import mcp.server.mcpserver
began = perf_counter()
import perdure
bare = perf_counter()
from perdure import DurableContext, DurableMCP, Signal, step
print(bare - began, perf_counter() - began)
"""


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    runs = [await _import() for _ in range(effort.of(15, 5))]
    bare, named = (median(taken) for taken in zip(*runs, strict=True))
    yield Measured("startup", f"{ms(named)} with all that a server names; {ms(bare)} bare", named <= LIMIT)


async def _import() -> tuple[float, float]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=PIPE, cwd=ROOT)
    said, _ = await process.communicate()
    bare, named = map(float, said.split())
    return bare, named
