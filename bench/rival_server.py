# fastmcp is in a virtual environment of its own, where pyright does not look:
# pyright: basic, reportMissingImports=false
"""The tasks of fastmcp-tasks, kept in memory: `python -m bench.rival_server`, with the interpreter of `rival`."""

from __future__ import annotations

from fastmcp import FastMCP
from fastmcp.utilities.tasks import TaskConfig
from fastmcp_tasks import TasksExtension

from bench.plain_server import serve_http

CONCURRENCY = 32
"""Tasks at once, as many as the bench has clients; its own default is 10."""

mcp = FastMCP("rival")
mcp.add_extension(TasksExtension(url="memory://", concurrency=CONCURRENCY))


@mcp.tool(task=TaskConfig(mode="required"))
async def add(a: int, b: int) -> int:
    return a + b


if __name__ == "__main__":
    serve_http(mcp.http_app())
