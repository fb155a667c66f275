"""A durable server in a process of its own: `python -m tests.protocol.durable_server stdio|sse|json FILE`.

To stderr it says as JSON which call waits, and of each request when it is over for its client.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from perdure import DurableContext, DurableMCP, Signal
from perdure.protocol.wire import wire_of
from perdure.step import step

go = Signal("go", str)


async def say_when_over(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    if ctx.method == "tools/call" and ctx.params is not None and (wire := wire_of(ctx)) is not None:
        token = ctx.params["arguments"].get("token")
        wire.on_close(lambda handed: report(token=token, over=handed, request=ctx.request_id))
        report(token=token, request=ctx.request_id)
    return await call_next(ctx)


def report(**what: Any) -> None:
    print(json.dumps(what), file=sys.stderr, flush=True)


@step
async def announce(token: str, call: str) -> None:
    report(token=token, call=call)


def make(file: str) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("durable", engine=file, log_level="WARNING", middleware=[say_when_over])

    @mcp.tool(signals=[go])
    async def wait(token: str, ctx: DurableContext) -> str:
        await announce(token, ctx.call_id)
        return f"{token} {await ctx.receive(go)}"

    @mcp.tool(signals=[go], on_disconnect="cancel")
    async def wait_with_me(token: str, ctx: DurableContext) -> str:
        await announce(token, ctx.call_id)
        return f"{token} {await ctx.receive(go)}"

    @mcp.tool(key="whole-{token}")
    def keyed(token: str) -> str:
        return token

    return mcp


if __name__ == "__main__":
    transport, file = sys.argv[1:3]
    if transport == "stdio":
        make(file).run()
    else:
        make(file).run("streamable-http", port=0, json_response=transport == "json")
