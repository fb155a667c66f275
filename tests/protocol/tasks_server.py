"""A server of tasks in a process of its own: `python -m tests.protocol.tasks_server http|stdio FILE`.

It may be killed. Each effect is a line in the file beside it.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Signal
from perdure.step import step

AT_ONCE = timedelta(0)
go = Signal("go", str)


class Name(BaseModel):
    name: str


def make(file: Path, **options: Any) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("tasks", engine=file, log_level="ERROR", **options)
    effects = file.with_suffix(".effects")

    @step
    async def effect(line: str) -> None:
        with effects.open("a") as out:
            print(line, file=out)

    @mcp.tool(signals=[go], handoff_after=AT_ONCE)
    async def work(token: str, ctx: DurableContext) -> str:
        await effect(f"{token} began")
        word = await ctx.receive(go)
        await effect(f"{token} went on")
        return f"{token} {word}"

    @mcp.tool(handoff_after=AT_ONCE)
    async def ask(token: str, ctx: DurableContext) -> str:
        said = await ctx.elicit("Who?", Name, name="who")
        await effect(f"{token} was answered")
        return f"{token} {said.data.name if said.action == 'accept' else said.action}"

    return mcp


if __name__ == "__main__":
    transport, file = sys.argv[1:3]
    if transport == "stdio":
        make(Path(file)).run()
    else:
        make(Path(file)).run("streamable-http", port=0)
