"""A folder with calls and effects, the servers that come and go on it, and their clients."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from perdure import DurableMCP
from tests.protocol.answers.person import Person
from tests.protocol.answers.server import AnswersServer
from tests.protocol.answers.table import Row, Transport, has_way_back
from tests.protocol.asking import BOUND, until
from tests.protocol.tasking import Holding
from tests.protocol.wired import MODE, ROOT, Era, Reports

SERVER = ["-m", "tests.protocol.answers.server"]


@dataclass
class House:
    """Over stdio it has one client, which starts its server; in memory the server is here."""

    folder: Path
    transport: Transport
    mcp: DurableMCP[Any]
    """The server in memory; else it only looks."""
    url: str = ""
    is_dying: bool = False
    """From then on, clients may fail as they like."""
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None

    # --- servers and clients ---

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[None]:
        """Of a server over HTTP."""
        self.is_dying = False
        self.killed.clear()
        if self.transport in ("stdio", "memory"):
            yield
            return
        command = [sys.executable, *SERVER, self.transport, str(self.folder)]
        self._process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        assert self._process.stderr is not None
        reports = Reports()
        reading = asyncio.create_task(reports.read(self._process.stderr))
        try:
            line = await reports.until(lambda: next((x for x in reports.others if x.startswith("Listening on")), None))
            self.url = line.split()[-1]
            yield
        finally:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            await reading

    @asynccontextmanager
    async def client(self, row: Row, era: Era, person: Person) -> AsyncGenerator[Client]:
        callbacks: dict[str, Any] = {"elicitation_callback": person.elicit, "sampling_callback": person.sample}
        can_answer = row != "cannot be asked" or not has_way_back(era, self.transport)
        options: dict[str, Any] = callbacks if can_answer else {}
        if row.startswith("stateless with Tasks"):
            options = {**options, "extensions": [Holding()]}
        where: Any = self.mcp if self.transport == "memory" else self.url
        if self.transport == "stdio":
            arguments = [*SERVER, "stdio", str(self.folder)]
            where = stdio_client(StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT))
        try:
            async with Client(where, mode=MODE[era], **options) as client:
                yield client
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK's client trips over what arrives while it leaves

    async def kill(self) -> None:
        """In the middle of whatever it does."""
        self.is_dying = True
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
        else:
            for pid in self._ends_of("pid")[-1:]:
                os.kill(int(pid), signal.SIGKILL)
        self.killed.set()

    # --- what is seen from outside ---

    def hold(self, what: str) -> None:
        (self.folder / f"hold-{what}").touch()

    def release(self) -> None:
        for each in self.folder.glob("hold-*"):
            each.unlink()

    def effects(self, token: str) -> list[str]:
        return [verb for verb, _, about in self._parts() if about == token]

    async def effect(self, verb: str, about: str) -> None:
        async def is_there() -> bool:
            return verb in self.effects(about)

        await until(is_there)

    async def asked_by(self, token: str) -> tuple[str, str]:
        """The id of the call and the name of its question, once it asks."""
        async with asyncio.timeout(BOUND):
            while True:
                for call in (await self.mcp.calls.find()).calls:
                    for question in call.questions:
                        if question.message == f"{token}?":
                            return call.id, question.name
                await asyncio.sleep(0.01)

    def _ends_of(self, verb: str) -> list[str]:
        return [about for each, _, about in self._parts() if each == verb]

    def _parts(self) -> list[tuple[str, str, str]]:
        return [line.partition(" ") for line in self.lines()]

    def lines(self) -> list[str]:
        """All effects, of all its servers."""
        written = self.folder / "effects"
        return written.read_text().splitlines() if written.exists() else []


@asynccontextmanager
async def house_of(folder: Path, transport: Transport) -> AsyncGenerator[House]:
    mcp = AnswersServer(folder).mcp
    async with mcp.serving(work=transport == "memory"):
        yield House(folder, transport, mcp)
