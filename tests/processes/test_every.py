"""A job that runs by itself, in several processes on one file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from perdure.engine import CallView
from tests.processes.ticking import mcp

ROOT = Path(__file__).parents[2]


async def worker(file: Path, ticks: Path) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "perdure.cli", "worker", "tests.processes.ticking", "--engine", str(file)]
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=os.environ | {"TICKS": str(ticks)}, stderr=asyncio.subprocess.DEVNULL
    )


async def calls_of_ticks(over: int) -> list[CallView]:
    """All of them, once so many are over."""
    async with asyncio.timeout(60):
        while True:
            views = (await mcp.calls.find(tool="tick", limit=1000)).calls
            if sum(view.is_over for view in views) >= over:
                return views
            await asyncio.sleep(0.05)


async def test_several_processes_make_one_call_per_tick_also_when_one_is_killed(tmp_path: Path) -> None:
    file, ticks = tmp_path / "ticking.db", tmp_path / "ticks"
    mcp.engine = str(file)
    async with mcp.serving(work=False):
        workers = [await worker(file, ticks) for _ in range(3)]
        try:
            await calls_of_ticks(over=2)
            workers[0].send_signal(signal.SIGKILL)
            await workers[0].wait()
            views = await calls_of_ticks(over=6)
        finally:
            for process in workers:
                if process.returncode is None:
                    process.kill()
                await process.wait()
    assert max(Counter(view.key for view in views).values()) == 1
    assert {view.status for view in views if view.is_over} == {"completed"}
    ran = Counter(line.split()[0] for line in ticks.read_text().splitlines())
    assert {view.id for view in views if view.is_over} <= ran.keys()
    killed = workers[0].pid
    twice = [call for call, times in ran.items() if times > 1]
    lines = ticks.read_text().splitlines()
    assert all(any(line == f"{call} {killed}" for line in lines) for call in twice), "a tick ran twice, and nobody died"
