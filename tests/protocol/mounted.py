"""A server in an application of the user's own, under the user's own uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.routing import Mount

from perdure import DurableMCP


@asynccontextmanager
async def uvicorn_of(app: Starlette) -> AsyncGenerator[str]:
    """The URL at which the application is served, on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def mounted(mcp: DurableMCP[Any], **options: Any) -> AsyncGenerator[str]:
    inner = mcp.streamable_http_app(streamable_http_path="/", **options)
    app = Starlette(routes=[Mount("/mcp", inner)], lifespan=mcp.serving)
    async with uvicorn_of(app) as url:
        yield f"{url}/mcp/"


@asynccontextmanager
async def client_as(url: str, mode: str, user: str | None = None, **options: Any) -> AsyncGenerator[Client]:
    """A client that says who it is in a header."""
    headers = {} if user is None else {"x-user": user}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as client,
    ):
        yield client
