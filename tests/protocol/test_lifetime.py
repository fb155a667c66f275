"""The engine is open from the first who enters the server to the last who leaves it."""

from __future__ import annotations

import asyncio
import logging
import stat
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from perdure import DurableContext, DurableMCP, PerdureError, current_step
from perdure.protocol.gateway import CALL_ID
from perdure.step import step
from tests.protocol.asking import Gate, asked, calls_of, text


@step
async def state_of_step() -> str:
    return current_step().state


async def test_the_lifespan_is_entered_once_for_all_clients() -> None:
    story = list[str]()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[str]:
        story.append("in")
        yield "state"
        story.append("out")

    mcp = DurableMCP("life", engine="memory:", lifespan=lifespan)
    async with Client(mcp), Client(mcp, mode="legacy"):
        async with Client(mcp):
            story.append("three")
        assert story == ["in", "three"]
        assert mcp.state == "state"
    assert story == ["in", "three", "out"]


async def test_storage_is_open_around_the_lifespan_and_calls_run_within_it() -> None:
    story = list[str]()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[str]:
        await visits.set("opened", 1)
        yield "state"
        story.append(f"closing with {[key for key, _ in await visits.items()]}")

    mcp = DurableMCP("life", engine="memory:", lifespan=lifespan)
    visits = mcp.store("visits", int)

    @mcp.job()
    async def tick(ctx: DurableContext) -> None:
        story.append(await state_of_step())
        await visits.set("ticked", 1)

    async with mcp.serving():
        call = await tick.start()
        await call.result()
    assert story == ["state", "closing with ['opened', 'ticked']"]


async def test_a_later_opening_has_what_an_earlier_one_left(tmp_path: Path) -> None:
    mcp = DurableMCP[Any]("life", engine=tmp_path / "calls.db")
    notes = mcp.store("notes", str)
    async with mcp.serving():
        await notes.set("a", "kept")
    async with mcp.serving():
        assert await notes.get("a") == "kept"


async def test_a_server_that_does_not_work_starts_calls_and_runs_none(tmp_path: Path) -> None:
    mcp, ran = DurableMCP[Any]("life", engine=tmp_path / "calls.db"), list[str]()

    @mcp.job()
    async def tick() -> str:
        ran.append("tick")
        return "done"

    async with mcp.serving(work=False):
        call = await tick.start()
        assert (await mcp.calls.get(call.id)).status == "running"
    assert ran == []
    async with mcp.serving():
        assert await mcp.calls.result(call.id) == "done"


async def test_a_lifespan_that_fails_fails_whoever_enters_and_may_succeed_later() -> None:
    tries = list[int]()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[int]:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionRefusedError("no database yet")
        yield len(tries)

    mcp = DurableMCP("life", engine="memory:", lifespan=lifespan)
    with pytest.raises(ConnectionRefusedError, match="no database yet"):
        async with mcp.serving():
            raise AssertionError("it is not open")
    async with mcp.serving():
        assert mcp.state == 2


async def test_what_goes_wrong_on_the_way_out_is_raised() -> None:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None]:
        yield
        raise OSError("the pool will not close")

    mcp = DurableMCP("life", engine="memory:", lifespan=lifespan)
    with pytest.raises(OSError, match="will not close"):
        async with mcp.serving():
            pass


def test_one_server_opens_anew_on_each_event_loop(tmp_path: Path) -> None:
    mcp = DurableMCP[Any]("life", engine=tmp_path / "calls.db")

    @mcp.tool()
    async def ping() -> str:
        return "pong"

    async def ask() -> str:
        async with Client(mcp) as client:
            return text(await client.call_tool("ping", {}))

    answers = list[str]()
    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(ask()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    answers.append(asyncio.run(ask()))
    assert answers == ["pong"] * 3


def test_bodies_steps_and_threads_have_the_state_of_their_own_loop(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[int]:
        yield threading.get_ident()

    mcp = DurableMCP[int]("life", engine=tmp_path / "calls.db", lifespan=lifespan)
    both_open, seen = threading.Barrier(2), list[list[int]]()

    @step
    def on_a_thread() -> int:
        assert current_step().state == mcp.state
        return mcp.state

    @mcp.tool()
    async def ask(ctx: DurableContext[int]) -> None:
        here = threading.get_ident()  # a body is fed in the thread of the loop that it belongs to
        seen.append([here, mcp.state, ctx.state, await on_a_thread(), mcp.state])

    @mcp.tool(durable=False)
    def ordinary() -> str:
        return str(mcp.state)

    async def serve() -> None:
        async with Client(mcp) as client:
            await asyncio.to_thread(both_open.wait, 20)
            assert not (await client.call_tool("ask", {})).is_error
            assert text(await client.call_tool("ordinary", {})) == str(threading.get_ident())
            await asyncio.to_thread(both_open.wait, 20)

    with ThreadPoolExecutor(2) as threads:
        for served in [threads.submit(lambda: asyncio.run(serve())) for _ in range(2)]:
            served.result(30)
    assert len(seen) >= 2
    assert all(len(set(states)) == 1 for states in seen), seen


async def test_the_state_is_there_for_steps_threads_and_tools() -> None:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[str]:
        yield "state"

    mcp = DurableMCP("life", engine="memory:", lifespan=lifespan)

    @mcp.tool()
    def on_a_thread() -> str:
        return mcp.state + current_step().state

    @mcp.tool()
    async def in_a_body(ctx: DurableContext[str]) -> str:
        return mcp.state + ctx.state + await state_of_step()

    @mcp.tool(durable=False)
    def ordinary() -> str:
        return mcp.state + current_step().state

    async with Client(mcp) as client:
        assert text(await client.call_tool("on_a_thread", {})) == "statestate"
        assert text(await client.call_tool("in_a_body", {})) == "statestatestate"
        assert text(await client.call_tool("ordinary", {})) == "statestate"


async def test_outside_of_its_life_a_server_says_how_to_enter_it() -> None:
    mcp = DurableMCP[Any]("life", engine="memory:")
    with pytest.raises(PerdureError, match=r"mcp\.serving\(\)"):
        _ = mcp.state
    with pytest.raises(RuntimeError, match=r"mcp\.serving\(work=False\)"):
        await mcp.calls.find()


# --- leaving --------------------------------------------------------------------------------------


async def test_who_still_waits_at_the_end_is_told_to_ask_again(tmp_path: Path) -> None:
    mcp, gate = DurableMCP[Any]("life", engine=tmp_path / "calls.db", log_level="CRITICAL"), Gate()

    @mcp.tool(rerun=True)
    async def slow() -> int:
        return await gate.pass_through()

    async with mcp.serving():
        waiting = asyncio.create_task(mcp.call_tool("slow", {}))
        await gate.until(came=1)
        ((call_id, _),) = await calls_of(mcp)
    with pytest.raises(MCPError, match="Ask again") as told:
        await waiting
    assert (told.value.error.code, told.value.error.data) == (-32000, {CALL_ID: call_id})
    async with mcp.serving(), asked(mcp.call_tool("slow", {})) as again:
        gate.open()
        assert text(await again) == "2"
        assert await calls_of(mcp) == [(call_id, "completed")]


# --- which engine ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("PERDURE_ENGINE", raising=False)
    return tmp_path


async def test_by_default_calls_are_in_a_private_file_of_the_servers_name(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mcp = DurableMCP[Any]("My shop/2")
    with caplog.at_level(logging.INFO, "perdure"):
        async with mcp.serving():
            (file,) = home.rglob("My shop%2F2.db")
            assert str(file) in caplog.text
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_the_file_is_logged_with_its_folder(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    with caplog.at_level(logging.INFO, "perdure"):
        async with DurableMCP[Any]("shop", engine="calls.db").serving():
            assert str(home / "calls.db") in caplog.text


async def test_the_environment_names_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ENGINE", str(home / "elsewhere.db"))
    async with DurableMCP[Any]("shop").serving():
        assert (home / "elsewhere.db").exists()


async def test_an_argument_beats_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ENGINE", str(home / "elsewhere.db"))
    async with DurableMCP[Any]("shop", engine=home / "argument.db").serving():
        assert not (home / "elsewhere.db").exists()
        assert (home / "argument.db").exists()


async def test_what_is_set_afterwards_beats_the_argument(home: Path) -> None:
    mcp = DurableMCP[Any]("shop", engine=home / "argument.db")
    mcp.engine = str(home / "command line.db")
    async with mcp.serving():
        assert (home / "command line.db").exists()
        with pytest.raises(RuntimeError, match="already"):
            mcp.engine = "memory:"
    assert not (home / "argument.db").exists()
