"""Processes with other code on the same file, and one that dies as soon as it has accepted a call."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from perdure.calls import EVERYONE, Calls
from perdure.core.call import Status
from perdure.engine import CallView
from perdure.engines.embedded.engine import Embedded
from perdure.errors import Stuck

pytestmark = pytest.mark.slow

BOUND = 20

ROOT = Path(__file__).parents[2]

CODE = """
import asyncio, os, signal, sys
from perdure import DurableContext, DurableMCP, Signal, step

mcp = DurableMCP("orders", engine=sys.argv[-1] if __name__ == "__main__" else None, log_level="CRITICAL")
go = Signal("go", str)

@step
async def FIRST(item: str) -> str:
    return f"{item} by FIRST"

@mcp.tool(signals=[go])
async def order(item: str, ctx: DurableContext) -> str:
    return f"{await FIRST(item)}, {await ctx.receive(go)}"

async def accept_and_die() -> None:
    async with mcp.serving():
        call = await mcp.calls.start("order", {"item": "tea"})
        os.write(1, call.id.encode())
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    asyncio.run(accept_and_die())
"""


class Shop:
    """A server's file of code, which is deployed anew, and its file of calls, which stays."""

    def __init__(self, folder: Path) -> None:
        self._code = folder / "orders.py"
        self._file = folder / "calls.db"

    def deploy(self, first_step: str) -> None:
        self._code.write_text(CODE.replace("FIRST", first_step))

    async def accept_and_die(self) -> str:
        """The call that a process said it had accepted with its last breath."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(self._code), str(self._file), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(process.communicate(), BOUND)
        assert process.returncode == -signal.SIGKILL
        return said.decode()

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[None]:
        """A process that runs the calls with the code that is deployed now; killed in the end."""
        command = ["-m", "perdure.cli", "worker", str(self._code), "--engine", str(self._file)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield
            assert process.returncode is None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @asynccontextmanager
    async def calls(self) -> AsyncGenerator[Calls]:
        """They are looked at, and not run."""
        engine = Embedded(self._file)
        async with engine.serve((), work=False):
            yield Calls(lambda: engine, caller=EVERYONE)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def until(calls: Calls, call: str, status: Status) -> CallView:
    async with asyncio.timeout(BOUND):
        async for view in calls.watch(call):
            if view.status == status:
                return view
    raise AssertionError(f"it ended otherwise: {await calls.get(call)}")


async def test_a_call_whose_process_dies_as_soon_as_it_is_accepted_reaches_its_end(shop: Shop) -> None:
    shop.deploy("fetch")
    call = await shop.accept_and_die()
    async with shop.calls() as calls, shop.worker():
        await calls.signal(call, "go", "sent")
        done = await until(calls, call, "completed")
    assert done.result["content"][0]["text"] == "tea by fetch, sent"


async def test_a_call_that_other_code_cannot_go_on_with_does_so_when_the_old_code_is_back(shop: Shop) -> None:
    shop.deploy("fetch")
    call = await shop.accept_and_die()
    async with shop.calls() as calls:
        async with shop.worker():
            await until(calls, call, "waiting")
        shop.deploy("prepare")
        async with shop.worker():
            stuck = await until(calls, call, "stuck")
            assert "fetch" in str(stuck.error)
            assert "prepare" in str(stuck.error)
            await calls.signal(call, "go", "sent")
            with pytest.raises(Stuck):
                await calls.result(call)
        shop.deploy("fetch")
        async with shop.worker():
            done = await until(calls, call, "completed")
        lines = [(line.kind, line.name) for line in await calls.timeline(call)]
    assert done.result["content"][0]["text"] == "tea by fetch, sent"
    assert lines.count(("step", "fetch")) == 1
    assert ("step", "prepare") not in lines
