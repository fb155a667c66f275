"""docs/tasks.md: its server hands each kind of client off as its table says, and its numbers are those of the code."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from perdure import DurableMCP
from perdure.engine import KEPT
from perdure.protocol.handles import WAIT
from perdure.protocol.task_view import FOR_ANSWERS, LATEST, SOONEST
from perdure.testing import trial
from perdure.tool import HANDOFF
from tests.docs.test_tutorial import FENCE
from tests.protocol import test_handles as handles
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.asking import asked, text
from tests.protocol.tasking import Holding, get_task

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
YEAR = {"year": 2025}


@pytest.fixture
def mcp() -> DurableMCP[Any]:
    (found,) = FENCE.finditer(PAGE)
    names: dict[str, Any] = {"__name__": "reports"}
    exec(compile(found["text"], found["file"], "exec"), names)
    return names["mcp"]


async def test_a_client_with_tasks_holds_one(mcp: DurableMCP[Any]) -> None:
    holding = Holding()
    async with trial(mcp) as t, Client(mcp, extensions=[holding]) as client:
        async with asked(client.session.call_tool("report", YEAR, allow_claimed=True)) as request:
            await t.advance(timedelta(seconds=20))
            created: Any = await request
        task = await get_task(client.session, created.task_id)
        assert (task.status, task.status_message) == ("working", "waiting for the offices")
        await t.advance(timedelta(hours=8))
        done = await get_task(client.session, created.task_id)
        assert (done.result or {})["structuredContent"] == {"result": "The report of 2025."}


async def test_an_old_client_that_asks_for_a_task_gets_one_at_once(mcp: DurableMCP[Any]) -> None:
    async with trial(mcp) as t, Client(mcp, mode="legacy") as client:
        task = await legacy.create(client, "report", **YEAR)
        async with asked(legacy.result(client, task)) as waiting:
            await t.advance(timedelta(hours=8))
            assert text(await waiting) == "The report of 2025."


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_any_other_client_gets_a_handle(mcp: DurableMCP[Any], mode: str) -> None:
    async with trial(mcp) as t, Client(mcp, mode=mode) as client:
        async with asked(client.call_tool("report", YEAR)) as request:
            await t.advance(timedelta(seconds=20))
            handle: Any = (await request).structured_content
            call: str = handle["call_id"]
        await t.advance(timedelta(hours=8))
        (done,) = await handles.states(client, call)
        assert done["result"] == {"result": "The report of 2025."}


def test_its_numbers_are_those_of_the_code() -> None:
    assert (timedelta(seconds=45), timedelta(days=7)) == (HANDOFF, KEPT)
    assert (timedelta(seconds=1), timedelta(minutes=1), timedelta(seconds=5)) == (SOONEST, LATEST, FOR_ANSWERS)
    assert f"seconds={WAIT:g})" in PAGE
    for number in ("45 s", "7 days", "is 1 s for a new call", "a minute", "is 5 s where"):
        assert number in PAGE


async def test_it_lists_the_tools_that_there_are(mcp: DurableMCP[Any]) -> None:
    async with trial(mcp) as t:
        listed = {tool.name for tool in (await t.client.list_tools()).tools} - {"report"}
    table = PAGE.partition("## Handles")[2]
    assert {line.partition("`")[2].partition("(")[0] for line in table.splitlines() if line.startswith("| `")} == listed
