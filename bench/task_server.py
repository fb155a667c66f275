"""A server whose calls are tasks: `python -m bench.task_server FILE [WAITING]`.

With a number it starts so many calls of `ask` before it serves, waits until all of them ask and none is in memory any
more, and writes their ids beside the file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, TextIO

from mcp.server.elicitation import AcceptedElicitation
from pydantic import BaseModel

from bench.child import say
from bench.open_files import allow_connections
from perdure import DurableContext, DurableMCP

MOST_LISTENS = 10_000

AT_ONCE = 100

LEFT_AFTER = 12.0
"""Seconds: bodies that wait leave memory after ten."""


class Decision(BaseModel):
    approve: bool


def make(file: Path) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("tasks", engine=file, log_level="WARNING", max_listens=MOST_LISTENS)

    @mcp.tool(task="required")
    async def add(a: int, b: int) -> int:
        return a + b

    @mcp.tool(task="required")
    async def ask(number: int, ctx: DurableContext) -> int:
        decision = await ctx.elicit("Approve?", Decision)
        return number if isinstance(decision, AcceptedElicitation) and decision.data.approve else -1

    return mcp


async def main(file: Path, waiting: int) -> None:
    allow_connections(MOST_LISTENS)
    mcp = make(file)
    async with mcp.serving():
        say("open")
        if waiting:
            with ids_beside(file).open("w") as ids:
                await _fill(mcp, waiting, ids)
            await asyncio.sleep(LEFT_AFTER)
            say("filled")
        await mcp.run_streamable_http_async(port=0)


def ids_beside(file: Path) -> Path:
    return file.with_suffix(".ids")


async def _fill(mcp: DurableMCP[Any], calls: int, ids: TextIO) -> None:
    numbers = iter(range(calls))

    async def client() -> None:
        for number in numbers:
            call = await mcp.calls.start("ask", {"number": number})
            print(call.id, file=ids)
            async for view in mcp.calls.watch(call.id):
                if view.questions:
                    break

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
