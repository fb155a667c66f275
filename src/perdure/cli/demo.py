"""`perdure demo`: a forecast survives `kill -9` of its server, and every claim about that is checked.

Real processes, real HTTP, a real SIGKILL. Without `--live` a stand-in for the weather service counts what it is
asked, and fails as planned.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import typer
from mcp import Client
from mcp_types import TextContent
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perdure.cli import STARTED
from perdure.cli.children import Child, listening
from perdure.cli.ending import clean_up_first
from perdure.cli.files import opened
from perdure.cli.output import quiet, terminal
from perdure.cli.problem import Problem
from perdure.cli.render import SHORT_ID, duration, printable, timeline_table
from perdure.cli.upstream import Claim, Counts, RealService, Service, StandIn
from perdure.engine import CallView, TimelineEntry

LIMIT = timedelta(seconds=28)
"""The promise is 30 s, to the end of all processes."""

TOOL = "get_forecast"
PLACE = {"latitude": 39.7456, "longitude": -97.0892}  # Washington, Kansas
ASLEEP = timedelta(seconds=2)
"""How long the server lives on once the service has said where the forecast is: it sleeps for ten seconds then."""


def run_demo(server: str, *, live: bool) -> None:
    """Returns if everything that was said is true."""
    _reach_loopback_directly()
    quiet()
    clean_up_first()
    try:
        claims = asyncio.run(_within_limit(server, live=live))
    except TimeoutError:
        raise Problem(f"The demo did not end within {duration(LIMIT)}; the last line is what it waited for.") from None
    except asyncio.CancelledError:
        raise Problem("The demo was ended.") from None
    if not all(claim.holds for claim in claims):
        raise typer.Exit(1)


def _reach_loopback_directly() -> None:
    """A proxy that is set for the world cannot; the child processes inherit this."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


async def _within_limit(server: str, *, live: bool) -> list[Claim]:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(LIMIT.total_seconds() - (time.monotonic() - STARTED)):
        with TemporaryDirectory(prefix="perdure-demo-") as folder:
            async with RealService.found() if live else StandIn.started() as service:
                return await Demo(server, service, Path(folder) / "calls.db").tell()


# --- the story ------------------------------------------------------------------------------------


class Demo:
    def __init__(self, server: str, service: Service, file: Path) -> None:
        self._server = server
        self._service = service
        self._file = file
        self._out = terminal()

    async def tell(self) -> list[Claim]:
        began = time.monotonic()
        self._say(self._service.introduction)
        async with self._serving(port=0) as server:
            self._say(f"The weather server listens at {server.address}, process {server.pid}.")
            self._say("A client asks it for a forecast.")
            async with _asked(server.address) as first:
                await self._until_asleep(first)
                code = await server.kill()
                self._say(f"kill -9 {server.pid}, while the call sleeps for ten seconds. Nobody runs it now.")
                answered = await _was_answered(first)
        killed = await self._seen()
        self._say(f"Its client got no answer. The file has the call: {_in_words(killed)}.")
        at_kill = await self._service.counts()

        async with self._serving(port=_port(server.address)) as server:
            self._say(f"The weather server is started again, process {server.pid}. The client asks again.")
            async with _asked(server.address) as second:
                answer = await second
            self._say(f"The answer, {duration(timedelta(seconds=time.monotonic() - began))} after the start:")
            ended = await self._seen()
            counts = await self._service.counts()

        claims = [
            Claim(
                "The server was ended by SIGKILL, and nobody was answered.", code == -signal.SIGKILL and not answered
            ),
            *_about_calls(killed, ended, answer),
            *self._service.claims(at_kill, counts),
        ]
        self._show(answer, ended, counts, claims)
        return claims

    @asynccontextmanager
    async def _serving(self, port: int) -> AsyncGenerator[Child]:
        command = ("perdure.cli", "run", self._server, "--http", str(port), "--engine", str(self._file))
        async with listening(*command, settings=self._service.settings) as child:
            yield child

    async def _until_asleep(self, first: asyncio.Task[Answer]) -> None:
        while not await self._service.said_where(self._file):
            if first.done():
                raise Problem(f"The client was answered too early: {first.exception() or first.result().text}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(ASLEEP.total_seconds())

    async def _seen(self) -> Seen:
        """What is in the file, from outside of the server."""
        async with opened(str(self._file)) as calls:
            found = (await calls.find(tool=TOOL)).calls
            return Seen(found, await calls.timeline(found[0].id) if found else [])

    def _say(self, text: str) -> None:
        self._out.print(text, soft_wrap=True)

    def _show(self, answer: Answer, seen: Seen, counts: Counts, claims: list[Claim]) -> None:
        self._indented(printable(_beginning(answer.text)))
        if seen.calls:
            self._say(f"Its timeline, as `perdure call {seen.calls[0].id[:SHORT_ID]}` would show it:")
            self._indented(timeline_table(seen.timeline, seen.calls[0].created))
        if counts:
            self._say("What the weather service counted:")
            self._indented(_counts_table(counts))
        for claim in claims:
            self._out.print(Text.assemble(("✓ ", "green") if claim.holds else ("✗ ", "bold red"), claim.what))

    def _indented(self, what: RenderableType) -> None:
        self._out.print()
        self._out.print(Padding(what, (0, 0, 0, 4), expand=False))
        self._out.print()


@dataclass(frozen=True)
class Answer:
    text: str
    is_error: bool


@dataclass(frozen=True)
class Seen:
    """The calls of the tool, and the timeline of the newest."""

    calls: list[CallView]
    timeline: list[TimelineEntry]

    @property
    def finished_steps(self) -> list[TimelineEntry]:
        return [entry for entry in self.timeline if entry.kind == "step"]


@asynccontextmanager
async def _asked(address: str) -> AsyncGenerator[asyncio.Task[Answer]]:
    """A client that has asked for the forecast, as any MCP client would."""

    async def ask() -> Answer:
        async with Client(address) as client:
            result = await client.call_tool(TOOL, dict[str, Any](PLACE))
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        return Answer(text, bool(result.is_error))

    task = asyncio.create_task(ask())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _was_answered(first: asyncio.Task[Answer]) -> bool:
    """How a broken connection looks to the client is the SDK's affair."""
    await asyncio.wait([first], timeout=3)
    return first.done() and first.exception() is None and not first.result().is_error


def _beginning(answer: str) -> str:
    first, *more = answer.split("\n\n---\n\n")
    return f"{first}\n… and {len(more)} more periods." if more else first


def _in_words(seen: Seen) -> str:
    return ", ".join(f"{view.status}, steps done: {len(seen.finished_steps)}" for view in seen.calls) or "none"


def _port(address: str) -> int:
    return httpx.URL(address).port or 80


# --- the claims -----------------------------------------------------------------------------------


def _about_calls(killed: Seen, ended: Seen, answer: Answer) -> list[Claim]:
    return [
        Claim("At that time the call slept, with one step done.", _slept(killed)),
        Claim("Both requests were one call.", len(ended.calls) == 1 and _ids(ended) == _ids(killed)),
        Claim("It completed, and its answer is a forecast.", _completed(ended) and _is_forecast(answer)),
        Claim("What was done before the kill was not done again.", _went_on(killed, ended)),
    ]


def _slept(seen: Seen) -> bool:
    return [view.status for view in seen.calls] == ["waiting"] and len(seen.finished_steps) == 1


def _went_on(killed: Seen, ended: Seen) -> bool:
    return len(ended.finished_steps) == 2 and ended.finished_steps[:1] == killed.finished_steps


def _completed(seen: Seen) -> bool:
    return [view.status for view in seen.calls] == ["completed"]


def _is_forecast(answer: Answer) -> bool:
    return not answer.is_error and answer.text.count("Temperature:") == 5


def _ids(seen: Seen) -> list[str]:
    return [view.id for view in seen.calls]


def _counts_table(counts: Counts) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("request", "received", "succeeded", "sent after success"):
        table.add_column(column)
    for path, each in counts.items():
        table.add_row(path, str(each["received"]), str(each["succeeded"]), str(each["after_success"]))
    return table
