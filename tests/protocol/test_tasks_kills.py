"""Tasks outlive the processes that run them: SIGKILL at every place, over HTTP and over stdio."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitResult

from perdure import DurableMCP
from perdure.cli.children import listening
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.asking import BOUND, MODES, asked, text, until
from tests.protocol.tasking import Holding, create, ended, get_task, task_as, update_task
from tests.protocol.tasking import listening as listening_to
from tests.protocol.tasks_server import go, make
from tests.protocol.wired import ROOT

pytestmark = pytest.mark.slow

SERVER = "tests.protocol.tasks_server"
ADA = {"action": "accept", "content": {"name": "Ada"}}
"""What is sent for an answer."""


class Calls:
    """A file with calls, and the servers that come and go on it."""

    def __init__(self, folder: Path, transport: Literal["http", "stdio"]) -> None:
        self.file = folder / "calls.sqlite"
        self.transport = transport

    @asynccontextmanager
    async def life(self, **options: Any) -> AsyncGenerator[Client]:
        """A client of a server which is killed when this is left."""
        if self.transport == "http":
            async with (
                listening(SERVER, "http", str(self.file)) as server,
                client_that_may_be_cut(Client(server.address, **options)) as client,
            ):
                yield client
                await server.kill()
        else:
            pids = self.file.parent / "pid"
            # The shell gives its place to the server, so that its id is the server's.
            command = f'echo $$ > {pids}; exec {sys.executable} -m {SERVER} stdio "{self.file}"'
            parameters = StdioServerParameters(command="sh", args=["-c", command], cwd=ROOT)
            async with client_that_may_be_cut(Client(stdio_client(parameters), **options)) as client:
                yield client
                kill(int(pids.read_text()))

    @asynccontextmanager
    async def here(self) -> AsyncGenerator[DurableMCP[Any]]:
        """Look at the calls without running any."""
        mcp = make(self.file)
        async with mcp.serving(work=False):
            yield mcp

    async def send(self, task: str) -> None:
        async with self.here() as mcp:
            await mcp.calls.signal(task, go, "on")

    def effects(self) -> list[str]:
        written = self.file.with_suffix(".effects")
        return written.read_text().splitlines() if written.exists() else []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def client_that_may_be_cut(client: Client) -> AsyncGenerator[Client]:
    """Its server is killed under it, over which it may trip on its way out."""
    done = False
    try:
        async with client:
            yield client
            done = True
    except Exception:
        if not done:
            raise


@pytest.fixture(params=["http", "stdio"])
def calls(request: pytest.FixtureRequest, tmp_path: Path) -> Calls:
    return Calls(tmp_path, request.param)


def holding(**options: Any) -> dict[str, Any]:
    async def never(context: Any, params: Any) -> ElicitResult:
        raise AssertionError("tasks are answered with tasks/update")

    return {"extensions": [Holding()], "elicitation_callback": never, **options}


async def test_a_task_that_was_given_ends_though_its_server_is_killed_at_once(calls: Calls) -> None:
    async with calls.life(**holding()) as client:
        task = await create(client, "work", token="a")
    async with calls.life(**holding()) as client:
        assert (await get_task(client.session, task)).status == "working"
        await calls.send(task)
        done = await ended(client.session, task)
        assert text(CallToolResult.model_validate(done.result)) == "a on"
    # A step that its process did not live to record runs again.
    assert calls.effects() in (["a began", "a went on"], ["a began", "a began", "a went on"])


async def test_a_task_goes_on_where_its_killed_server_was(calls: Calls) -> None:
    async def began() -> bool:
        return calls.effects() == ["a began"]

    async with calls.life(**holding()) as client:
        task = await create(client, "work", token="a")
        await until(began)

        async def is_waiting() -> bool:
            async with calls.here() as mcp:
                return any(each.kind == "step" and each.ended for each in await mcp.calls.timeline(task))

        await until(is_waiting)
    await calls.send(task)
    async with calls.life(**holding()) as client:
        done = await ended(client.session, task)
        assert text(CallToolResult.model_validate(done.result)) == "a on"
    assert calls.effects() == ["a began", "a went on"]


async def test_a_task_that_ended_is_got_from_the_next_server(calls: Calls) -> None:
    async with calls.life(**holding()) as client:
        task = await create(client, "work", token="a")
        await calls.send(task)
        before = await ended(client.session, task)
    async with calls.life(**holding()) as client:
        after = await get_task(client.session, task)
        assert (after.status, after.result, after.ttl_ms) == ("completed", before.result, before.ttl_ms)
    assert calls.effects() == ["a began", "a went on"]


async def test_a_task_asks_the_next_server_s_clients_under_the_same_name(calls: Calls) -> None:
    async with calls.life(**holding()) as client:
        task = await create(client, "ask", token="a")
        asks = await task_as(client.session, task, "input_required")
    async with calls.life(**holding()) as client:
        again = await task_as(client.session, task, "input_required")
        assert again.input_requests == asks.input_requests
        await update_task(client.session, task, {"who": ADA})
        done = await ended(client.session, task)
        assert text(CallToolResult.model_validate(done.result)) == "a Ada"
    assert calls.effects() == ["a was answered"]


async def test_an_answer_that_was_acknowledged_counts_though_the_server_is_killed_at_once(calls: Calls) -> None:
    async with calls.life(**holding()) as client:
        task = await create(client, "ask", token="a")
        await task_as(client.session, task, "input_required")
        await update_task(client.session, task, {"who": ADA})
    async with calls.life(**holding()) as client:
        await update_task(client.session, task, {"who": {"action": "decline"}})
        done = await ended(client.session, task)
        assert text(CallToolResult.model_validate(done.result)) == "a Ada"


async def test_who_listens_again_hears_what_happened_meanwhile(calls: Calls) -> None:
    first, second = Holding(), Holding()
    async with calls.life(**holding(extensions=[first])) as client:
        task = await create(client, "work", token="a")
        async with listening_to(client, task):
            await first.until(lambda: [news["status"] for news in first.news] == ["working"])
    await calls.send(task)
    async with calls.life(**holding(extensions=[second])) as client, listening_to(client, task):
        await second.until(lambda: any(news["status"] == "completed" for news in second.news))


# --- 2025-11-25 -----------------------------------------------------------------------------------


async def test_an_old_client_s_task_outlives_its_server(calls: Calls) -> None:
    async def ada(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with calls.life(mode="legacy", elicitation_callback=ada) as client:
        task = await legacy.create(client, "ask", token="a")
        await legacy.status(client, task, "input_required")
    async with calls.life(mode="legacy", elicitation_callback=ada) as client:
        assert text(await legacy.result(client, task)) == "a Ada"
    async with calls.life(mode="legacy") as client:
        assert text(await legacy.result(client, task)) == "a Ada"
        assert [each.task_id for each in (await legacy.listed(client)).tasks] == [task]
    assert calls.effects() == ["a was answered"]


async def test_an_old_client_s_task_stays_cancelled_whatever_the_next_server_makes_of_it(calls: Calls) -> None:
    async with calls.life(mode="legacy") as client:
        task = await legacy.create(client, "work", token="a")
        assert (await legacy.cancel(client, task)).status == "cancelled"
    async with calls.life(mode="legacy") as client:
        assert (await legacy.get(client, task)).status == "cancelled"


# --- several processes ----------------------------------------------------------------------------


async def test_a_task_of_one_process_is_seen_answered_and_told_of_by_another(tmp_path: Path) -> None:
    file, holder = tmp_path / "calls.sqlite", Holding()
    async with (
        listening(SERVER, "http", str(file)) as one,
        listening(SERVER, "http", str(file)) as other,
        Client(one.address, **holding()) as creator,
        Client(other.address, **holding(extensions=[holder])) as looker,
    ):
        task = await create(creator, "ask", token="a")
        async with listening_to(looker, task):
            await holder.until(lambda: any("inputRequests" in news for news in holder.news))
            await update_task(looker.session, task, {"who": ADA})
            assert (await get_task(looker.session, task)).status != "input_required"
            await holder.until(lambda: any(news["status"] == "completed" for news in holder.news))
        done = await get_task(creator.session, task)
        assert text(CallToolResult.model_validate(done.result)) == "a Ada"


# --- an end in good order ---------------------------------------------------------------------------


async def test_a_server_that_ends_lets_go_of_who_listens_and_of_who_waits_for_a_result(tmp_path: Path) -> None:
    file = tmp_path / "calls.sqlite"
    holder = Holding()
    async with (
        listening(SERVER, "http", str(file)) as server,
        client_that_may_be_cut(Client(server.address, **holding(extensions=[holder]))) as new,
        client_that_may_be_cut(Client(server.address, mode="legacy")) as old,
    ):
        task = await create(new, "work", token="a")
        async with listening_to(new, task) as stream, asked(legacy.result(old, task)) as waiting:
            await holder.until(lambda: bool(holder.news))
            server.process.terminate()
            assert (await stream).meta is not None
            with pytest.raises(MCPError, match="The server restarts"):
                await waiting
            async with asyncio.timeout(BOUND):
                assert await server.process.wait() in (0, -signal.SIGTERM)


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_ends_lets_go_of_who_awaits_calls(tmp_path: Path, mode: Any) -> None:
    calls = Calls(tmp_path, "http")

    async def came() -> bool:
        return "await_calls came" in calls.effects()

    async with (
        listening(SERVER, "http", str(calls.file)) as server,
        client_that_may_be_cut(Client(server.address, mode=mode)) as client,
    ):
        handle = (await client.call_tool("work", {"token": "a"})).structured_content
        assert handle is not None
        async with asked(client.call_tool("await_calls", {"call_ids": [handle["call_id"]]})) as waiting:
            await until(came)
            server.process.terminate()
            with pytest.raises(MCPError, match=r"^The server restarts\. Ask again in a moment\.$"):
                await waiting
            async with asyncio.timeout(BOUND):
                assert await server.process.wait() in (0, -signal.SIGTERM)


# --- many -----------------------------------------------------------------------------------------


async def test_a_thousand_tasks_at_once_end_each_with_its_own_result(tmp_path: Path) -> None:
    calls = Calls(tmp_path, "http")
    async with listening(SERVER, "http", str(calls.file)) as server, Client(server.address, **holding()) as client:
        at_once = asyncio.Semaphore(50)

        async def one(number: int) -> str:
            async with at_once:
                return await create(client, "work", token=str(number))

        tasks = await asyncio.gather(*(one(number) for number in range(1000)))
        assert len(set(tasks)) == 1000
        async with calls.here() as mcp:
            await asyncio.gather(*(mcp.calls.signal(task, go, "on") for task in tasks))

        async def result(number: int, task: str) -> bool:
            async with at_once:
                done = await ended(client.session, task)
                return text(CallToolResult.model_validate(done.result)) == f"{number} on"

        assert all(await asyncio.gather(*(result(number, task) for number, task in enumerate(tasks))))
    assert len(calls.effects()) == len(set(calls.effects())) == 2000
