"""Calls replayed in another process, whose sets have another order."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from perdure import Diverged, DurableContext, DurableMCP, PerdureError, Principal
from perdure.testing import Trial, replays, trial
from tests.testing import invoice, test_invoice
from tests.testing.flawed import mcp


async def end(t: Trial, tool: str) -> str:
    call = await t.start(tool, principal=Principal("ann"))
    await t.settle()
    return call.id


async def test_a_body_that_asks_for_the_same_replays() -> None:
    async with trial(mcp) as t:
        await replays(mcp, await end(t, "in_order"))


async def test_so_does_one_that_failed_or_that_waits() -> None:
    async with trial(mcp) as t:
        await replays(mcp, await end(t, "refused"))
        await replays(mcp, await end(t, "waiting"))


async def test_it_knows_who_asked_and_when() -> None:
    async with trial(mcp) as t:
        call_id = await end(t, "asked_by")
        assert str(await t.calls.result(call_id)).startswith("ann at")
        await replays(mcp, call_id)


async def test_the_order_of_a_set_diverges() -> None:
    async with trial(mcp) as t:
        call_id = await end(t, "in_the_order_of_a_set")
        with pytest.raises(Diverged, match=r"recorded: .*touch.*\n.*asked: .*touch"):
            await replays(mcp, call_id)


async def test_chance_gives_another_result() -> None:
    call_id = ""

    async def by_chance() -> None:
        nonlocal call_id
        async with trial(mcp) as t:
            call_id = await end(t, "by_chance")
            with pytest.raises(AssertionError, match=r"before: completed: .*\n  replay: completed: "):
                await replays(mcp, call_id)

    with suppress(AssertionError):  # the trial itself notices, too
        await by_chance()
    assert call_id


async def test_a_call_with_timers_signals_and_children_replays() -> None:
    async with trial(invoice.mcp) as t:
        assert await test_invoice.approved(t) == "PAID"
        calls = (await t.calls.find()).calls
        assert sorted(view.tool for view in calls) == ["pay_line", "process_invoice"]
        for view in calls:
            await replays(invoice.mcp, view.id)


async def test_a_whole_step_has_nothing_to_replay() -> None:
    async with trial(mcp) as t:
        call_id = await end(t, "whole")
        with pytest.raises(PerdureError, match="nothing to replay"):
            await replays(mcp, call_id)


async def test_a_server_that_no_process_could_import_is_refused() -> None:
    local = DurableMCP("local")

    @local.tool()
    async def hello(ctx: DurableContext) -> str:
        return "hello"

    async with trial(local) as t:
        call_id = await end(t, "hello")
        with pytest.raises(PerdureError, match="at the top of no module"):
            await replays(local, call_id)


SCRIPT = """
import asyncio
from pydantic import BaseModel
from perdure import DurableContext, DurableMCP
from perdure.testing import replays, trial

mcp = DurableMCP("script", log_level="CRITICAL")

class Item(BaseModel):
    name: str

@mcp.tool()
async def make(ctx: DurableContext) -> Item:
    return Item(name="tea")

async def main():
    async with trial(mcp) as t:
        call = await t.start("make")
        print(await call.result())
        await replays(mcp, call.id)
        print("replayed")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_script_is_found_by_its_file(tmp_path: Path) -> None:
    script = tmp_path / "teashop.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ran.stdout.splitlines() == ["name='tea'", "replayed"], ran.stderr


PACKAGE = """
from pydantic import BaseModel

class Leaf(BaseModel):
    name: str
"""

PROGRAM = """
import asyncio
from pydantic import BaseModel
from perdure import DurableContext, DurableMCP, step
from perdure.testing import replays, trial
from teahouse import Leaf

mcp = DurableMCP("program", log_level="CRITICAL")

class Cup(BaseModel):
    name: str

@step
async def found():
    return [Leaf(name="green"), Cup(name="blue")]

@mcp.tool()
async def serve(ctx: DurableContext) -> str:
    leaf, cup = await found()
    return f"{leaf!r} {cup!r}"

async def main():
    async with trial(mcp) as t:
        call = await t.start("serve")
        print(await call.result())
        print((await t.calls.get(call.id)).function)
        await replays(mcp, call.id)
        print("replayed")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_package_that_runs_as_a_program_is_no_other_module_than_its_own(tmp_path: Path) -> None:
    package = tmp_path / "teahouse"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "__main__.py").write_text(PROGRAM)
    ran = subprocess.run([sys.executable, "-m", "teahouse"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ran.stdout.splitlines() == [
        "Leaf(name='green') Cup(name='blue')",
        "teahouse.__main__:serve",
        "replayed",
    ], ran.stderr
