"""Clients and servers that go, over each transport and era: what is detached, adopted, cancelled.

The server runs in a process of its own; the test looks at its file through an engine that runs no calls.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CancelledNotification, CancelledNotificationParams

from perdure import DurableMCP
from perdure.core.call import Status
from tests.protocol.asking import asked, calls_of, status_of, text
from tests.protocol.durable_server import go
from tests.protocol.wired import MODE, ROOT, Era, Reports, reported_stderr

pytestmark = pytest.mark.slow

Transport = Literal["stdio", "sse", "json"]


@dataclass(frozen=True)
class Cell:
    transport: Transport
    era: Era
    hears_cancellations: bool

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"


CELLS = [
    Cell("stdio", "sessions", hears_cancellations=True),
    Cell("stdio", "stateless", hears_cancellations=True),
    Cell("sse", "sessions", hears_cancellations=True),
    Cell("sse", "stateless", hears_cancellations=False),
    Cell("json", "sessions", hears_cancellations=True),
    Cell("json", "stateless", hears_cancellations=False),
]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@dataclass
class House:
    """A file with calls, the servers that come and go on it, and an observer."""

    cell: Cell
    file: Path
    observer: DurableMCP[Any]
    reports: Reports = field(default_factory=Reports)
    url: str = ""
    process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[None]:
        """Over stdio each client starts a server of its own."""
        if self.cell.transport == "stdio":
            yield
            return
        command = [sys.executable, "-m", "tests.protocol.durable_server", self.cell.transport, str(self.file)]
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        assert self.process.stderr is not None
        self.reports = Reports()
        reading = asyncio.create_task(self.reports.read(self.process.stderr))
        try:
            line = await self.reports.until(
                lambda: next((each for each in self.reports.others if each.startswith("Listening on")), None)
            )
            self.url = line.split()[-1]
            yield
        finally:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            await reading

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        try:
            async with AsyncExitStack() as stack:
                where: Any = self.url
                if self.cell.transport == "stdio":
                    self.reports, stderr = await stack.enter_async_context(reported_stderr())
                    arguments = ["-m", "tests.protocol.durable_server", "stdio", str(self.file)]
                    parameters = StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
                    where = stdio_client(parameters, errlog=stderr)
                yield await stack.enter_async_context(Client(where, mode=MODE[self.cell.era]))
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK's client trips over what arrives while it leaves

    async def waits(self, token: str) -> str:
        """The id of the call of this token, once it waits."""
        return await self.reports.first(token, "call")

    async def is_over(self, token: str) -> None:
        """Wait until the server knows that this request's client has gone, or has been answered."""
        await self.reports.first(token, "over")


@pytest.fixture
async def house(cell: Cell, tmp_path: Path) -> AsyncGenerator[House]:
    observer = DurableMCP[Any]("durable", engine=tmp_path / "calls.db", log_level="WARNING")
    async with observer.serving(work=False):
        yield House(cell, tmp_path / "calls.db", observer)


@each_cell
async def test_who_asks_again_after_leaving_gets_the_one_outcome(cell: Cell, house: House) -> None:
    async with house.server():
        async with house.client() as client, asked(client.call_tool("wait", {"token": "a"})):
            call = await house.waits("a")
        await house.observer.calls.signal(call, go, "went on")
        async with house.client() as client:
            assert text(await client.call_tool("wait", {"token": "a"})) == "a went on"
    assert await calls_of(house.observer) == [(call, "completed")]


@each_cell
async def test_who_asks_again_after_a_time_out_gets_the_one_outcome(cell: Cell, house: House) -> None:
    async with house.server(), house.client() as client:
        with pytest.raises(MCPError, match=r"(?i)timed out"):
            await client.call_tool("wait", {"token": "a"}, read_timeout_seconds=0.5)
        call = await house.waits("a")
        await house.is_over("a")
        async with asked(client.call_tool("wait", {"token": "a"})) as again:
            await house.observer.calls.signal(call, go, "went on")
            assert text(await again) == "a went on"
    assert await calls_of(house.observer) == [(call, "completed")]


@each_cell
async def test_a_call_survives_the_death_of_its_server(cell: Cell, house: House) -> None:
    call = ""
    async with house.server():
        with suppress(Exception):
            async with house.client() as client, asked(client.call_tool("wait", {"token": "a"})):
                call = await house.waits("a")
                if house.process is not None:
                    house.process.kill()
                    await house.process.wait()
    # Nobody runs it now: what is sent to it waits in its inbox.
    await house.observer.calls.signal(call, go, "went on")
    async with house.server(), house.client() as client:
        assert text(await client.call_tool("wait", {"token": "a"})) == "a went on"
    assert await calls_of(house.observer) == [(call, "completed")]


@each_cell
@pytest.mark.parametrize(("reason", "wanted"), [("user pressed stop", True), ("timed out after 5s", False)])
async def test_a_cancellation_stops_the_call_where_it_arrives_and_is_meant(
    cell: Cell, house: House, reason: str, wanted: bool
) -> None:
    async with house.server(), house.client() as client, asked(client.call_tool("wait", {"token": "a"})):
        call = await house.waits("a")
        request = await house.reports.first("a", "request")
        params = CancelledNotificationParams(request_id=request, reason=reason)
        await client.session.send_notification(CancelledNotification(params=params))
        stops: Status = "cancelled" if wanted and cell.hears_cancellations else "completed"
        await client.call_tool("keyed", {"token": "behind it"})
        if stops == "completed":
            await house.observer.calls.signal(call, go, "went on")
        await status_of(house.observer, call, stops)


@each_cell
async def test_a_client_that_leaves_stops_a_call_that_says_so(cell: Cell, house: House) -> None:
    async with house.server():
        async with house.client() as client, asked(client.call_tool("wait_with_me", {"token": "a"})):
            call = await house.waits("a")
        if cell.transport == "stdio":
            # Its server ended with it: the next one finds that the call was to be cancelled.
            async with house.client():
                await status_of(house.observer, call, "cancelled")
        else:
            await status_of(house.observer, call, "cancelled")


@each_cell
async def test_an_answer_that_arrived_is_not_given_again(cell: Cell, house: House) -> None:
    async with house.server(), house.client() as client:
        for word in "one", "two":
            async with asked(client.call_tool("wait", {"token": word})) as request:
                call = await house.waits(word)
                await house.observer.calls.signal(call, go, word)
                assert text(await request) == f"{word} {word}"
            await house.is_over(word)
    assert [status for _, status in await calls_of(house.observer)] == ["completed", "completed"]


@each_cell
async def test_the_machines_own_user_has_keys(cell: Cell, house: House) -> None:
    async with house.server(), house.client() as client:
        assert text(await client.call_tool("keyed", {"token": "k"})) == "k"
        assert text(await client.call_tool("keyed", {"token": "k"})) == "k"
    assert len(await calls_of(house.observer)) == 1
