"""examples/mounted.py as it is deployed: by uvicorn, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.examples.service import ask

ROOT = Path(__file__).parents[2]
ANN, BOB = ({"Authorization": f"Bearer token-of-{name}"} for name in ("ann", "bob"))


@dataclass
class Deployed:
    process: asyncio.subprocess.Process
    url: str

    async def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await self.process.wait()


@asynccontextmanager
async def deployed(database: Path) -> AsyncGenerator[Deployed]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "examples.mounted:app", "--port", "0", "--timeout-graceful-shutdown", "1"),
        cwd=ROOT,
        env={**os.environ, "PERDURE_ENGINE": str(database)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while (found := re.search(r"running on (http://\S+)", said)) is None:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        reading = asyncio.create_task(process.stderr.read())  # so that it never waits for us
        yield Deployed(process, found[1])
        reading.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def client_of(url: str, headers: dict[str, str]) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp/", http_client=http)) as client,
    ):
        yield client


async def waiting_call(http: httpx.AsyncClient) -> str:
    async with asyncio.timeout(30):
        while not (found := (await http.get("/calls", headers=ANN)).json()) or not found[0]["text"]:
            await asyncio.sleep(0.02)
    assert [(call["key"], call["text"]) for call in found] == [("order-7", "waits for approval")]
    return found[0]["id"]


@pytest.mark.slow
async def test_an_order_waits_until_its_owner_approves_it_at_a_route(tmp_path: Path) -> None:
    async with (
        deployed(tmp_path / "orders.db") as server,
        httpx.AsyncClient(base_url=server.url) as http,
        client_of(server.url, ANN) as client,
    ):
        asking = asyncio.create_task(ask(client, "order", number=7))
        approve = f"/calls/{await waiting_call(http)}/approve"

        assert (await http.get("/calls", headers=BOB)).json() == []
        assert [(await http.post(approve, headers=each)).status_code for each in ({}, BOB)] == [401, 404]
        assert (await http.post(approve, headers=ANN)).json() == {"approved": True}
        assert await asking == "Order 7 of ann is approved."
        assert (await http.post(approve, headers=ANN)).status_code == 409

        async with client_of(server.url, {}) as nobody:
            assert "authentication" in await ask(nobody, "order", number=8)


@pytest.mark.slow
async def test_uvicorn_cuts_off_who_waits_and_the_call_goes_on_in_the_next_process(tmp_path: Path) -> None:
    waits = ""
    async with deployed(tmp_path / "orders.db") as first, httpx.AsyncClient(base_url=first.url) as http:
        with suppress(BaseExceptionGroup):  # the SDK's client trips over a connection that is cut off
            async with client_of(first.url, ANN) as client:
                asking = asyncio.create_task(ask(client, "order", number=7))
                waits = await waiting_call(http)
                await first.end()
                await asyncio.wait({asking})
                answer = "" if asking.exception() is not None else asking.result()
                assert "approved" not in answer

    async with (
        deployed(tmp_path / "orders.db") as second,
        httpx.AsyncClient(base_url=second.url) as http,
        client_of(second.url, ANN) as client,
    ):
        asking = asyncio.create_task(ask(client, "order", number=7))
        assert await waiting_call(http) == waits
        await http.post(f"/calls/{waits}/approve", headers=ANN)
        assert await asking == "Order 7 of ann is approved."
