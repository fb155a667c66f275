"""What tests of questions share: clients that answer, over each transport and era, and servers that may be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitCompleteNotification,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    SamplingMessage,
    TextContent,
)

from perdure import DurableMCP
from tests.protocol.asking import BOUND, until
from tests.protocol.questions_server import QuestionsServer
from tests.protocol.wired import MODE, ROOT, Era, Reports

Transport = Literal["memory", "stdio", "sse", "json", "bare"]
Reply = ElicitResult | ErrorData


def yes(by: str = "ann") -> ElicitResult:
    return ElicitResult(action="accept", content={"approved": True, "by": by})


@dataclass
class Person:
    """Who sits at a client: answers what it is asked with `says`, once it is `free` to."""

    says: Callable[[ElicitRequestFormParams | ElicitRequestURLParams], Reply] = lambda _: yes()
    asked: list[str] = field(default_factory=list[str])
    withdrawn: list[str] = field(default_factory=list[str])
    completed: list[str] = field(default_factory=list[str])
    is_busy: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(
        self, context: ClientRequestContext, params: ElicitRequestFormParams | ElicitRequestURLParams
    ) -> Reply:
        await self._note(self.asked, params.message)
        try:
            async with self._news:
                await self._news.wait_for(lambda: not self.is_busy)
        except asyncio.CancelledError:
            self.withdrawn.append(params.message)
            raise
        return self.says(params)

    async def hear(self, message: Any) -> None:
        if isinstance(message, ElicitCompleteNotification):
            await self._note(self.completed, message.params.elicitation_id)

    async def _note(self, where: list[str], what: str) -> None:
        async with self._news:
            where.append(what)
            self._news.notify_all()

    async def free(self) -> None:
        async with self._news:
            self.is_busy = False
            self._news.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND), self._news:
            await self._news.wait_for(holds)


async def rejects(context: ClientRequestContext, params: CreateMessageRequestParams) -> ErrorData:
    return ErrorData(code=-1, message="User rejected sampling request")


async def samples(context: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="42"), model="deep")


async def deep_thought(messages: Sequence[SamplingMessage], **_: Any) -> CreateMessageResult:
    """A model of the server's own."""
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="forty-two"), model="own")


@dataclass
class House:
    """A folder with calls and effects, and the servers that come and go on it; `mcp` looks at it from here."""

    folder: Path
    transport: Transport
    era: Era
    mcp: DurableMCP[Any]
    url: str = ""
    process: asyncio.subprocess.Process | None = None
    was_killed: bool = False

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[None]:
        """Over stdio each client starts one of its own, and in memory it is here."""
        if self.transport in ("stdio", "memory"):
            yield
            return
        command = [sys.executable, "-m", "tests.protocol.questions_server", self.transport, str(self.folder)]
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
        assert self.process.stderr is not None
        reports = Reports()
        reading = asyncio.create_task(reports.read(self.process.stderr))
        try:
            line = await reports.until(lambda: next((x for x in reports.others if x.startswith("Listening on")), None))
            self.url = line.split()[-1]
            yield
        finally:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            await reading

    @asynccontextmanager
    async def client(self, person: Person | None, **options: Any) -> AsyncGenerator[Client]:
        """Without a person it declares that it cannot be asked."""
        if person is not None:
            options |= {"elicitation_callback": person.answer, "message_handler": person.hear}
        try:
            async with AsyncExitStack() as stack:
                where: Any = self.mcp if self.transport == "memory" else self.url
                if self.transport == "stdio":
                    arguments = ["-m", "tests.protocol.questions_server", "stdio", str(self.folder)]
                    parameters = StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
                    where = stdio_client(parameters)
                yield await stack.enter_async_context(Client(where, mode=MODE[self.era], **options))
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK's client trips over what arrives while it leaves

    @asynccontextmanager
    async def served_client(self, person: Person | None, **options: Any) -> AsyncGenerator[Client]:
        async with self.server(), self.client(person, **options) as client:
            yield client

    # --- what is seen from outside ---

    @property
    def effects(self) -> list[str]:
        """Without the lines that say who works."""
        return [line for line in self._lines if not line.startswith("pid ")]

    @property
    def _lines(self) -> list[str]:
        written = self.folder / "effects"
        return written.read_text().splitlines() if written.exists() else []

    async def effect(self, line: str) -> None:
        async def is_there() -> bool:
            return line in self.effects

        await until(is_there)

    def hold(self, what: Literal["work", "reply", "question"]) -> None:
        (self.folder / f"hold-{what}").touch()

    def release(self, what: Literal["work", "reply", "question"]) -> None:
        (self.folder / f"hold-{what}").unlink()

    async def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """The server that began the call, in the middle of whatever it does."""
        pid = next(int(line.split()[1]) for line in self._lines if line.startswith("pid "))
        os.kill(pid, by)
        self.was_killed = True
        if self.process is not None:
            await self.process.wait()

    async def asks(self, count: int = 1) -> str:
        """The id of the only call, once it asks so many questions."""
        async with asyncio.timeout(BOUND):
            while True:
                for call in (await self.mcp.calls.find()).calls:
                    if len(call.questions) == count:
                        return call.id
                await asyncio.sleep(0.01)

    async def ended(self) -> str:
        """The id of the only call, once it has ended."""
        async with asyncio.timeout(BOUND):
            while True:
                for call in (await self.mcp.calls.find()).calls:
                    if call.ended is not None:
                        return call.id
                await asyncio.sleep(0.01)


@asynccontextmanager
async def house_of(folder: Path, transport: Transport, era: Era) -> AsyncGenerator[House]:
    mcp = QuestionsServer(folder).mcp
    async with mcp.serving(work=transport == "memory"):
        yield House(folder, transport, era, mcp)
