"""The same server, durable, in a process of its own: `python -m bench.durable_server stdio|http FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mcp_types import ToolAnnotations

from perdure import DurableContext, DurableMCP, step


def make(file: Path) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("durable", engine=file, log_level="WARNING")

    @step
    async def sum_of(a: int, b: int) -> int:
        return a + b

    @mcp.tool()
    async def add_in_a_body(a: int, b: int, ctx: DurableContext) -> int:
        return await sum_of(a, b)

    @mcp.tool()
    async def add(a: int, b: int) -> int:
        return a + b

    @mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def add_unrecorded(a: int, b: int) -> int:
        return a + b

    return mcp


if __name__ == "__main__":
    server = make(Path(sys.argv[2]))
    if sys.argv[1] == "http":
        server.run("streamable-http", port=0)
    else:
        server.run("stdio")
