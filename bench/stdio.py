"""How long a client waits for the first answer of a server that it launches."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.child import PATIENCE, ROOT
from bench.promises import Effort, Measured
from bench.rounds import ms

LIMIT = 1.15

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    },
}


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file = effort.folder / "stdio.db"
    await _first_answer("bench.durable_server", file)  # a file is made once, a server is launched each day
    plain: list[float] = []
    durable: list[float] = []
    for _ in range(effort.of(10, 4)):
        plain.append(await _first_answer("bench.plain_server"))
        durable.append(await _first_answer("bench.durable_server", file))
    ratio = median(durable) / median(plain)
    figure = f"{ratio:.2f} × plain: {ms(median(durable))} to {ms(median(plain))}"
    yield Measured("stdio", figure, ratio <= LIMIT)


async def _first_answer(module: str, *arguments: Path) -> float:
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "stdio", *map(str, arguments), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
            answer = json.loads(await process.stdout.readline())
            took = perf_counter() - began
            if "result" not in answer:
                raise RuntimeError(f"{module} answered {answer}")
            process.stdin.close()
            await process.wait()
            return took
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
