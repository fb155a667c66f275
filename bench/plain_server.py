"""A plain MCP server in a process of its own: `python -m bench.plain_server stdio|http`."""

from __future__ import annotations

import socket
import sys
from typing import Any

from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp


def make() -> MCPServer[Any]:
    mcp = MCPServer[Any]("plain", log_level="WARNING")

    @mcp.tool()
    async def add(a: int, b: int) -> int:
        return a + b

    return mcp


def serve_http(app: ASGIApp) -> None:
    """As `run("streamable-http")` does, on a port that the system gives, and without a log of each request."""
    import uvicorn

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # who asks while uvicorn starts waits
    print(f"Listening on http://127.0.0.1:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


if __name__ == "__main__":
    if sys.argv[1] == "http":
        serve_http(make().streamable_http_app())
    else:
        make().run("stdio")
