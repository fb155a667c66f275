"""Processes of the server of `lives_server`, one after another or side by side, on one file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from perdure import DurableMCP
from tests.protocol.asking import calls_of, until
from tests.protocol.lives_server import LivesServer
from tests.protocol.wired import BOUND, ROOT, Reports

SERVER = ["-m", "tests.protocol.lives_server"]
SLACK = 3.0
"""Seconds beyond what is promised, for a machine that does much else."""


@dataclass(frozen=True)
class Lives:
    """One file with calls, and what they did in the world."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "calls.db"

    def arguments(self, transport: str) -> list[str]:
        return [*SERVER, transport, str(self.file), str(self.folder / "effects")]

    def effects(self) -> list[str]:
        written = self.folder / "effects"
        return written.read_text().splitlines() if written.exists() else []

    async def effect(self, line: str) -> None:
        """Wait until it is there."""

        async def is_there() -> bool:
            return line in self.effects()

        await until(is_there)

    @asynccontextmanager
    async def here(self, *, work: bool = True) -> AsyncGenerator[DurableMCP[Any]]:
        """A life in this process; without `work` it only looks."""
        mcp = LivesServer(self.file, self.folder / "effects").mcp
        async with mcp.serving(work=work):
            yield mcp

    async def only_call(self, mcp: DurableMCP[Any]) -> str:
        ((call, _),) = await calls_of(mcp)
        return call

    async def recorded(self, mcp: DurableMCP[Any]) -> str:
        """The id of the only call, once its first step is recorded: from then on it never runs again."""

        async def is_recorded() -> bool:
            calls = await calls_of(mcp)
            return bool(calls) and any(
                each.kind == "step" and each.ended for each in await mcp.calls.timeline(calls[0][0])
            )

        await until(is_recorded)
        return await self.only_call(mcp)

    @asynccontextmanager
    async def process(self, transport: str, **pipes: Any) -> AsyncGenerator[LivesProcess]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *self.arguments(transport), cwd=ROOT, stderr=asyncio.subprocess.PIPE, **pipes
        )
        assert process.stderr is not None
        reports = Reports()
        reading = asyncio.create_task(reports.read(process.stderr))
        try:
            found = LivesProcess(process, reports)
            if transport == "http":
                found.url = await reports.until(lambda: next(filter(None, map(_url_in, reports.others)), None))
            yield found
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await reading


@dataclass
class LivesProcess:
    process: asyncio.subprocess.Process
    reports: Reports
    url: str = ""

    async def ended(self) -> int:
        async with asyncio.timeout(BOUND):
            return await self.process.wait()


def _url_in(line: str) -> str | None:
    return line.split()[-1] if line.startswith("Listening on ") else None


def said(reply: httpx.Response) -> str:
    """The text that a tool answered, in JSON or in a stream."""
    lines = [line.removeprefix("data:").strip() for line in reply.text.splitlines()]
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    (result,) = [message["result"] for message in messages if "result" in message]
    return result["content"][0]["text"]
