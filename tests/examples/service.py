"""Somebody else's service over real HTTP, in the test's own loop: it counts its effects, and fails as planned."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp import Client
from mcp_types import TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class Service:
    """`answers` are by method and path; a planned failure is a status, before or after the effect."""

    answers: dict[tuple[str, str], Answer]
    before: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))
    """For each first word of a path: the statuses that its next requests get, with no effect; 0 goes through."""
    after: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))
    """The same, when the effect has happened: the answer is lost."""
    asked: Counter[str] = field(default_factory=Counter[str])
    done: Counter[str] = field(default_factory=Counter[str])
    keys: list[str] = field(default_factory=list[str])
    """The idempotency keys that it was sent, one for each request that had one."""
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(path, self._planned(answer), methods=[method]) for (method, path), answer in self.answers.items()
            ]
        )

    def _planned(self, answer: Answer) -> Answer:
        async def reply(request: Request) -> Response:
            about = request.url.path.split("/")[1]
            self.asked[f"{request.method} {about}"] += 1
            self.keys += [key for key in [request.headers.get("idempotency-key")] if key is not None]
            if (failure := _next(self.before[about])) != 0:
                return _failure(failure)
            answered = await answer(request)
            self.done[f"{request.method} {about}"] += 1
            return answered if (failure := _next(self.after[about])) == 0 else _failure(failure)

        return reply


def _next(planned: list[int]) -> int:
    return planned.pop(0) if planned else 0


def _failure(status: int) -> Response:
    return JSONResponse({"detail": "as planned"}, status, {"Retry-After": "0"})


@asynccontextmanager
async def served(app: Any, *, lifespan: bool = False) -> AsyncGenerator[str]:
    """The URL of an application under uvicorn, on a port that the system gave."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, log_level="critical", lifespan="on" if lifespan else "off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def listening(service: Service) -> AsyncGenerator[Service]:
    async with served(service.app()) as service.url:
        yield service


async def ask(client: Client, tool: str, /, **arguments: Any) -> str:
    """What a tool answers as text; errors begin with `Error:`."""
    result = await client.call_tool(tool, arguments)
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    return f"Error: {text}" if result.is_error else text


def json_reply(value: object, status: int = 200) -> Answer:
    async def answer(_: Request) -> Response:
        return JSONResponse(value, status)

    return answer


def one_of(values: Sequence[object]) -> Answer:
    """Each in turn, the last for ever."""
    left = list(values)

    async def answer(_: Request) -> Response:
        return JSONResponse(left.pop(0) if len(left) > 1 else left[0])

    return answer
