"""A server whose calls ask in each way: `python -m tests.protocol.answers.server stdio|sse|json|bare FOLDER`.

What it does in the world are lines in FOLDER/effects, of which each ends with the token of its call. A file
FOLDER/hold-work holds the work of its calls up, FOLDER/hold-reply what it says of those that have ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types.methods import is_input_required
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP
from tests.protocol.answers.table import Kind

FIVE_DAYS = timedelta(days=5)
TOO_LATE = "nobody for five days"


class Decision(BaseModel):
    by: str


class AnswersServer:
    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        options = {"engine": folder / "calls.db", "middleware": [self._hold_reply], **options}
        self.mcp = DurableMCP[Any]("answers", log_level="ERROR", **options)
        self.mcp.tool()(self.decide)
        self.mcp.tool(handoff_after=timedelta(0))(self.decide_at_leisure)

    async def decide(self, token: str, kind: Kind, ctx: DurableContext) -> str:
        return await self._decide(token, kind, ctx)

    async def decide_at_leisure(self, token: str, kind: Kind, ctx: DurableContext) -> str:
        """A task at once, of a client that takes tasks."""
        return await self._decide(token, kind, ctx)

    async def _decide(self, token: str, kind: Kind, ctx: DurableContext) -> str:
        await ctx.step(self.effect, f"begins {token}")
        try:
            said = await self._ask(token, kind, ctx)
        except TimeoutError:
            said = TOO_LATE
        await ctx.step(self._work, token)
        await ctx.step(self.effect, f"done {token}")
        return f"{token}: {said}"

    async def _ask(self, token: str, kind: Kind, ctx: DurableContext) -> str:
        question = f"{token}?"
        match kind:
            case "none":
                return "nobody"
            case "form":
                form = await ctx.elicit(question, Decision, timeout=FIVE_DAYS)
                return form.data.by if form.action == "accept" else form.action
            case "url":
                return (await ctx.elicit_url(question, "https://example.org/decide", timeout=FIVE_DAYS)).action
            case "sampling":
                return (await ctx.sample(question, timeout=FIVE_DAYS)).text

    # --- the world ---

    async def effect(self, what: str) -> None:
        """Writes a line in one go, as several processes do."""
        descriptor = os.open(self._folder / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{what}\n".encode())
        os.close(descriptor)

    async def _work(self, token: str) -> None:
        await self.effect(f"works {token}")
        await self._held_by("hold-work")

    async def _hold_reply(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        about = _ended_call(ctx.method, dict(ctx.params or {}), result)
        if about is not None and (self._folder / "hold-reply").exists():
            await self.effect(f"holds {about}")
            await self._held_by("hold-reply")
        return result

    async def _held_by(self, name: str) -> None:
        while (self._folder / name).exists():
            await asyncio.sleep(0.01)


def _ended_call(method: str, params: dict[str, Any], result: Any) -> str | None:
    """The task or the token of the call whose end this reply tells."""
    match method, result:
        case "tasks/result", _:
            return params["taskId"]
        case "tasks/get", {"status": "completed"}:
            return params["taskId"]
        case "tools/call", _ if not is_input_required(result) and not _is_task(params, result):
            return params["arguments"]["token"]
        case _:
            return None


def _is_task(params: dict[str, Any], result: Any) -> bool:
    return "task" in params or (isinstance(result, dict) and "taskId" in result)


if __name__ == "__main__":
    transport, folder = sys.argv[1:3]
    server = AnswersServer(Path(folder))
    if transport == "stdio":
        asyncio.run(server.effect(f"pid {os.getpid()}"))
        server.mcp.run()
    else:
        server.mcp.run("streamable-http", port=0, json_response=transport == "json", stateless_http=transport == "bare")
