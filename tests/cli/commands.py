"""Commands run in this process, and servers that keep calls for them in a file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from perdure.cli.app import app
from tests.cli import shop

ROOT = Path(__file__).parents[2]


def perdure(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def read_json(*arguments: str) -> Any:
    result = perdure(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def start(tool: str, /, **arguments: Any) -> str:
    """A call of the shop, which nobody runs yet."""

    async def begin() -> str:
        shop.mcp.engine = os.environ["PERDURE_ENGINE"]
        async with shop.mcp.serving(work=False):
            return (await shop.mcp.calls.start(tool, arguments)).id

    return asyncio.run(begin())


def finish(tool: str, /, **arguments: Any) -> str:
    """A call of the shop, run to its end in this process."""

    async def run() -> str:
        shop.mcp.engine = os.environ["PERDURE_ENGINE"]
        async with shop.mcp.serving():
            call = await shop.mcp.calls.start(tool, arguments)
            async with asyncio.timeout(20):
                async for view in shop.mcp.calls.watch(call.id):
                    if view.is_over:
                        break
            return call.id

    return asyncio.run(run())


@contextmanager
def worker(file: Path) -> Generator[subprocess.Popen[str]]:
    """`perdure worker` on the shop, from when it says that it works."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perdure.cli", "worker", "tests.cli.shop", "--engine", str(file)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Running calls" in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(call_id: str, within: timedelta = timedelta(seconds=20)) -> Any:
    """The record of a call once it has ended."""

    async def wait() -> None:
        async with shop.mcp.serving(work=False), asyncio.timeout(within.total_seconds()):
            async for _ in shop.mcp.calls.watch(call_id):
                pass

    asyncio.run(wait())
    return read_json("call", call_id)
