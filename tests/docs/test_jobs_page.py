"""docs/jobs.md: its server runs as it is written."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perdure.testing import trial

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("jobs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), module.__dict__)
    return module


async def test_the_children_of_the_page_are_paid_on_their_days(server: Any) -> None:
    async with trial(server.mcp) as t:
        call = await t.start("pay_all", {"lines": ["tea", "cake"]})
        await t.advance(timedelta(days=1))
        assert await call.result() == ["tea paid", "cake paid"]


async def test_the_order_of_the_page_is_paid_on_the_next_day_once(server: Any) -> None:
    async with trial(server.mcp) as t:
        ids = {await (await t.start("order", {"line": "tea"})).result() for _ in range(2)}
        (paying,) = ids
        assert await (await t.start("is_paid", {"call_id": paying})).result() == "waiting"
        await t.advance(timedelta(days=1))
        assert await (await t.start("is_paid", {"call_id": paying})).result() == "completed"


async def test_the_job_of_the_page_runs_every_hour_and_the_counting_one_for_ever(server: Any) -> None:
    async with trial(server.mcp) as t:
        counting = await t.start("counting")
        await t.advance(timedelta(hours=2))
        assert len((await t.calls.find(tool="tidy", status="completed")).calls) == 2
        assert not (await t.calls.get(counting.id)).is_over
        assert len(await t.calls.timeline(counting.id)) < 4
