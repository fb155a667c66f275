"""Questions that wait for days, and tasks that are kept for days, of each client: the days pass in milliseconds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from perdure.testing import Trial, trial
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.answers.guests import GUESTS, Guest, Kept
from tests.protocol.answers.house import House
from tests.protocol.answers.person import EXPECTED, Person
from tests.protocol.answers.server import FIVE_DAYS, TOO_LATE, AnswersServer
from tests.protocol.answers.table import ERAS_OF, ROWS, Cell, Row
from tests.protocol.asking import text
from tests.protocol.tasking import get_task
from tests.protocol.wired import Era

HOUR = timedelta(hours=1)

each_client = pytest.mark.parametrize(("row", "era"), [(row, era) for row in ROWS for era in ERAS_OF[row]])
each_kind = pytest.mark.parametrize("kind", ["form", "url", "sampling"])


@asynccontextmanager
async def asked(folder: Path, row: Row, era: Era, kind: Any) -> AsyncGenerator[tuple[Trial, Guest]]:
    mcp, person = AnswersServer(folder).mcp, Person()
    house = House(folder, "memory", mcp)
    async with trial(mcp) as t, house.client(row, era, person) as client:
        guest = GUESTS[row](Cell(row, era, "memory", "nowhere", kind), "a question", client, person, house, Kept())
        await guest.send()
        if kind != "none":
            await guest.until_asked()
        yield t, guest
        await guest.leave()


@each_client
@each_kind
async def test_after_five_days_it_is_too_late_to_answer(tmp_path: Path, row: Row, era: Era, kind: Any) -> None:
    async with asked(tmp_path, row, era, kind) as (t, guest):
        await t.advance(FIVE_DAYS)
        await guest.answer("mallory")
        assert await guest.result() == f"a question: {TOO_LATE}"


@each_client
@each_kind
async def test_on_the_fifth_day_it_is_not(tmp_path: Path, row: Row, era: Era, kind: Any) -> None:
    async with asked(tmp_path, row, era, kind) as (t, guest):
        await t.advance(FIVE_DAYS - HOUR)
        await guest.answer("ann")
        assert await guest.result() == f"a question: {EXPECTED[guest.cell.kind]}"


async def test_a_task_of_2025_11_25_is_kept_for_as_long_as_it_says_and_then_never_was(tmp_path: Path) -> None:
    async with asked(tmp_path, "sessions with `params.task`", "sessions", "none") as (t, guest):
        result, task = await guest.result(), guest.about
        ttl = (await legacy.get(guest.client, task)).ttl
        assert ttl is not None
        await t.advance(timedelta(milliseconds=ttl) - HOUR)
        assert text(await legacy.result(guest.client, task)) == result
        await t.advance(2 * HOUR)
        for ask in (legacy.get, legacy.result, legacy.cancel):
            with pytest.raises(MCPError) as refused:
                await ask(guest.client, task)
            assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Task not found")
        assert (await legacy.listed(guest.client)).tasks == []


async def test_a_task_waits_for_an_answer_and_says_so_for_all_of_the_time(tmp_path: Path) -> None:
    async with asked(tmp_path, "stateless with Tasks", "stateless", "form") as (t, guest):
        for _ in range(4):
            await t.advance(timedelta(days=1))
            task = await get_task(guest.client.session, guest.about)
            assert (task.status, task.ttl_ms, list(task.input_requests or {})) == ("input_required", None, ["question"])
