"""A server of tasks in a process of its own: `python -m tests.protocol.tasks_server http|stdio FILE`.

It may be killed. Each effect is a line in the file beside it.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from mcp.server.context import CallNext, HandlerResult
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, Signal
from perdure.protocol.sdk import RequestContext
from perdure.step import step

AT_ONCE = timedelta(0)
go = Signal("go", str)


class Name(BaseModel):
    name: str


def make(file: Path, **options: Any) -> DurableMCP[Any]:
    effects = file.with_suffix(".effects")

    async def note_who_waits(ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.params is not None and ctx.params.get("name") == "await_calls":
            with effects.open("a") as out:
                print("await_calls came", file=out)
        return await call_next(ctx)

    mcp = DurableMCP[Any]("tasks", engine=file, log_level="ERROR", middleware=[note_who_waits], **options)

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
    mcp = make(Path(file), handle_tools=True)
    if transport == "stdio":
        mcp.run()
    else:
        mcp.run("streamable-http", port=0)
