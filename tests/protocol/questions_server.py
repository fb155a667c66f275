"""A server that asks: `python -m tests.protocol.questions_server stdio|sse|json|bare FOLDER`.

What it does in the world are lines in FOLDER/effects. A file FOLDER/hold-work holds its work up, FOLDER/hold-question
the replies that ask, and FOLDER/hold-reply those of calls that have ended.
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

from perdure import DurableContext, DurableMCP, Signal

came_back = Signal("came_back", str)


class Approval(BaseModel):
    approved: bool
    by: str = ""


class QuestionsServer:
    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        options = {"engine": folder / "calls.db", "middleware": [self._hold_reply], **options}
        self.mcp = DurableMCP[Any]("questions", log_level="ERROR", **options)
        self.mcp.tool()(self.pay)
        self.mcp.tool()(self.both)
        self.mcp.tool()(self.rounds)
        self.mcp.tool()(self.patient)
        self.mcp.tool()(self.with_default)
        self.mcp.tool(signals=[came_back])(self.visit)
        self.mcp.tool()(self.think)
        self.mcp.tool()(self.delegate)
        self.mcp.prompt()(self.letter)
        self.mcp.resource("note://{topic}")(self.note)
        self.mcp.resource("news://today")(self.today)
        self._job = self.mcp.job()(self.approve_elsewhere)

    # --- the world ---

    async def effect(self, what: str) -> None:
        """Writes a line in one go, as several processes do."""
        descriptor = os.open(self._folder / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{what}\n".encode())
        os.close(descriptor)

    async def pid(self) -> None:
        await self.effect(f"pid {os.getpid()}")

    async def work(self) -> None:
        await self.effect("works")
        await self._held_by("hold-work")

    async def _hold_reply(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method == "tools/call":
            await self._held_by("hold-question" if is_input_required(result) else "hold-reply")
        return result

    async def _held_by(self, name: str) -> None:
        while (self._folder / name).exists():
            await asyncio.sleep(0.01)

    # --- what asks ---

    async def pay(self, amount: int, ctx: DurableContext) -> str:
        await ctx.step(self.pid)
        said = await ctx.elicit(f"Pay {amount}?", Approval, name="approve")
        if said.action != "accept":
            return said.action
        if not said.data.approved:
            return "not approved"
        await ctx.step(self.work)
        await ctx.step(self.effect, f"paid {amount}")
        return f"paid {amount}, by {said.data.by}"

    async def both(self, ctx: DurableContext) -> str:
        answers = await asyncio.gather(
            *(ctx.elicit(f"{name}?", Approval, name=name) for name in ("boss", "bank")),
        )
        return ", ".join(each.data.by if each.action == "accept" else each.action for each in answers)

    async def rounds(self, count: int, ctx: DurableContext) -> str:
        said: list[str] = []
        for number in range(count):
            answer = await ctx.elicit(f"Number {number}?", Approval)
            said.append(answer.data.by if answer.action == "accept" else answer.action)
        return ", ".join(said)

    async def patient(self, ctx: DurableContext) -> str:
        try:
            said = await ctx.elicit("Still there?", Approval, timeout=timedelta(milliseconds=200))
        except TimeoutError:
            return "nobody"
        return said.action

    async def with_default(self, ctx: DurableContext) -> str:
        said = await ctx.elicit("Fine?", Approval, default=Approval(approved=True, by="default"))
        return said.data.by if said.action == "accept" else said.action

    async def visit(self, ctx: DurableContext) -> str:
        said = await ctx.elicit_url("Sign in, please.", "https://example.org/sign-in", "sign-in-1")
        return said.action if said.action != "accept" else await ctx.receive(came_back)

    async def think(self, ctx: DurableContext) -> str:
        return (await ctx.sample("What is the answer?", timeout=timedelta(seconds=1))).text

    async def delegate(self, ctx: DurableContext) -> str:
        return await self._job("child")

    async def approve_elsewhere(self, ctx: DurableContext, what: str) -> str:
        said = await ctx.elicit(f"The {what} asks", Approval, name="child")
        return said.data.by if said.action == "accept" else said.action

    async def letter(self, to: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Write to {to}?", Approval, name="letter")
        return f"Dear {to}: {said.data.by}" if said.action == "accept" else said.action

    async def note(self, topic: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Show {topic}?", Approval, name="note")
        return f"{topic}: {said.data.by}" if said.action == "accept" else said.action

    async def today(self, ctx: DurableContext) -> str:
        said = await ctx.elicit("Show the news?", Approval, name="news")
        return said.data.by if said.action == "accept" else said.action


if __name__ == "__main__":
    transport, folder = sys.argv[1:3]
    mcp = QuestionsServer(Path(folder)).mcp
    if transport == "stdio":
        mcp.run()
    else:
        bare = transport == "bare"
        mcp.run("streamable-http", port=0, json_response=transport == "json", stateless_http=bare)
