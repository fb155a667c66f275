"""A server whose processes come and go: `python -m tests.protocol.lives_server stdio|http FILE EFFECTS`.

Each effect is a line in EFFECTS, so that it can be counted over all of its lives.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from perdure import DurableContext, DurableMCP, Signal, ToolError

go = Signal("go", str)


class LivesServer:
    def __init__(self, file: Path, effects: Path) -> None:
        self._effects = effects
        self.mcp = DurableMCP[Any]("lives", engine=file, log_level="ERROR")
        self.mcp.tool(signals=[go])(self.wait)
        self.mcp.tool()(self.pay)
        self.mcp.tool(key="mine-{what}")(self.mine)
        self.mcp.tool(key="ours-{what}", shared=True)(self.ours)
        self.mcp.tool()(self.chatter)
        self.mcp.tool()(self.chat_in_a_body)

    async def effect(self, what: str) -> str:
        """Writes a line in one go, as several processes do."""
        descriptor = os.open(self._effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{what}\n".encode())
        os.close(descriptor)
        return what

    async def wait(self, token: str, ctx: DurableContext) -> str:
        await ctx.step(self.effect, f"{token} begun")
        word = await ctx.receive(go)
        await ctx.step(self.effect, f"{token} ended")
        return f"{token} {word}"

    async def pay(self, amount: int) -> str:
        await self.effect(f"paid {amount}")
        if amount < 0:
            raise ToolError(f"{amount} is no amount")
        return f"paid {amount}"

    async def mine(self, what: str, amount: int = 0) -> str:
        return await self.effect(f"mine {what} {os.urandom(8).hex()}")

    async def ours(self, what: str, ctx: DurableContext) -> str:
        await ctx.step(self.effect, f"ours {what}")
        await ctx.sleep(timedelta(milliseconds=200))
        return str(ctx.uuid4())

    async def chatter(self) -> str:
        """Prints, and so do its children."""
        print("printed by a tool")
        child = await asyncio.create_subprocess_exec("sh", "-c", "echo printed by a child; cat")
        await child.wait()
        return "said"

    async def chat_in_a_body(self, ctx: DurableContext) -> str:
        print("printed by a body")
        return "said"


if __name__ == "__main__":
    transport, file, effects = sys.argv[1:4]
    mcp = LivesServer(Path(file), Path(effects)).mcp
    if transport == "stdio":
        mcp.run()
    else:
        mcp.run("streamable-http", port=0)
