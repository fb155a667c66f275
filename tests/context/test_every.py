"""Jobs that run by themselves: `every=`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableContext, DurableMCP, step
from perdure.testing import trial


def hourly(ran: list[datetime]) -> DurableMCP[Any]:
    mcp = DurableMCP("hourly")

    @step
    async def look(at: datetime) -> None:
        ran.append(at)

    @mcp.job(every=timedelta(hours=1))
    async def watch(ctx: DurableContext, place: str = "Berlin") -> None:
        await look(ctx.now())

    return mcp


async def test_a_job_runs_once_at_each_tick() -> None:
    ran: list[datetime] = []
    async with trial(hourly(ran)) as t:
        start = t.now
        await t.advance(timedelta(hours=5))
    first = (start + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    assert ran == [first + timedelta(hours=n) for n in range(5)]


async def test_a_crash_loses_no_tick_and_doubles_none() -> None:
    ran: list[datetime] = []
    async with trial(hourly(ran)) as t:
        for _ in range(6):
            await t.advance(timedelta(minutes=30))
            await t.crash()
        await t.advance(timedelta(0))
    assert len(ran) == len(set(ran)) == 3


async def test_a_missed_tick_is_made_up_once(tmp_path: Path) -> None:
    ran: list[float] = []

    def often() -> DurableMCP[Any]:
        mcp = DurableMCP("often", engine=tmp_path / "often.db")

        @mcp.job(every=timedelta(seconds=1))
        async def tick() -> None:
            ran.append(asyncio.get_running_loop().time())

        return mcp

    mcp = often()
    async with mcp.serving():
        await until(lambda: planned(mcp, 1))
    before, ends = len(ran), datetime.now(UTC) + timedelta(seconds=3)
    while datetime.now(UTC) < ends:  # the file has a call whose time passes while nobody is there
        await asyncio.sleep(0.1)
    mcp = often()
    began = datetime.now(UTC)
    async with mcp.serving():
        await until(lambda: missed_is_over(mcp, began))
        page = await mcp.calls.find(tool="tick")
        late = [view for view in page.calls if view.created < began and view.ended and view.ended >= began]
        assert len(late) == 1
        assert len(ran) > before


async def planned(mcp: DurableMCP[Any], count: int) -> bool:
    return len((await mcp.calls.find(tool="tick")).calls) >= count


async def missed_is_over(mcp: DurableMCP[Any], began: datetime) -> bool:
    calls = (await mcp.calls.find(tool="tick")).calls
    return all(view.is_over for view in calls if view.created < began)


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"every": timedelta(0)}, ValueError), ({"every": timedelta(hours=1), "key": "k"}, ValueError)],
)
def test_what_cannot_run_by_itself_is_refused(options: Any, error: type[Exception]) -> None:
    async def alone() -> None: ...

    with pytest.raises(error):
        DurableMCP("refuses").job(**options)(alone)


def test_a_job_that_wants_arguments_cannot_run_by_itself() -> None:
    async def of(place: str) -> None: ...

    with pytest.raises(TypeError, match="without anybody who gives it arguments"):
        DurableMCP("refuses").job(every=timedelta(hours=1))(of)


async def test_a_deploy_with_another_default_goes_on_at_the_tick_after_the_planned_one(tmp_path: Path) -> None:
    ran: list[str] = []

    def server(place: str) -> DurableMCP[Any]:
        mcp = DurableMCP("deployed", engine=tmp_path / "deployed.db")

        async def look(where: str = place) -> None:
            ran.append(where)

        look.__defaults__ = (place,)
        mcp.job("look", every=timedelta(seconds=1))(look)
        return mcp

    async def planned_look(mcp: DurableMCP[Any]) -> bool:
        return bool((await mcp.calls.find(tool="look")).calls)

    old = server("Berlin")
    async with old.serving():
        await until(lambda: planned_look(old))
    new = server("Paris")

    async def has_run() -> bool:
        return "Paris" in ran

    async with new.serving():
        await until(has_run)
