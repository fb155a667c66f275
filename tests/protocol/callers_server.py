"""A durable server whose calls wait for a signal: `python -m tests.protocol.callers_server stdio|sse|json FILE`.

Of each request it reports as JSON, to stderr, its id, and when it is over for its client.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError

from perdure import DurableContext, DurableMCP, Signal
from perdure.protocol.wire import wire_of

go = Signal("go", str)

Report = Callable[[dict[str, Any]], None]


class CallersServer:
    """Requests are told apart by tokens of the test's."""

    def __init__(self, engine: str | Path, report: Report) -> None:
        self._report = report
        self._handlers: dict[str, anyio.CancelScope] = {}
        self.mcp = DurableMCP[Any]("callers", engine=engine, log_level="ERROR", middleware=[self._watch])
        self.mcp.tool(signals=[go])(self.wait)
        self.mcp.tool(signals=[go], on_disconnect="cancel")(self.wait_with_me)
        self.mcp.tool(key="mine-{token}")(self.mine)
        self.mcp.tool(key="ours-{token}", shared=True)(self.ours)
        self.mcp.tool(durable=False)(self.interrupt)

    async def wait(self, token: str, ctx: DurableContext) -> str:
        return f"{token} {await ctx.receive(go)}"

    async def wait_with_me(self, token: str, ctx: DurableContext) -> str:
        return f"{token} {await ctx.receive(go)}"

    async def mine(self, token: str) -> str:
        return token_hex()

    async def ours(self, token: str) -> str:
        return token_hex()

    async def interrupt(self, token: str) -> None:
        """End the handler of another request, as a middleware with a limit of its own does."""
        if token in self._handlers:
            self._handlers[token].cancel()

    async def _watch(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call" or ctx.params is None:
            return await call_next(ctx)
        token = ctx.params["arguments"]["token"]
        if (wire := wire_of(ctx)) is not None:
            wire.on_close(lambda handed: self._report({"token": token, "over": handed}))
        self._report({"token": token, "request": ctx.request_id})
        if ctx.params["name"] == "interrupt":
            return await call_next(ctx)
        with anyio.CancelScope() as handler:
            self._handlers[token] = handler
            return await call_next(ctx)
        raise MCPError(-32000, "It took too long.")


def report_to_stderr(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    transport, file = sys.argv[1:3]
    mcp = CallersServer(file, report_to_stderr).mcp
    if transport == "stdio":
        mcp.run()
    else:
        mcp.run("streamable-http", port=0, json_response=transport == "json")
