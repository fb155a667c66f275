"""Jobs that run by themselves: `every=`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableContext, DurableMCP, step
from perdure.engine import CallView
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
        await until(lambda: has_ended_in_time(mcp, began))
        page = await mcp.calls.find(tool="tick")
        late = [view for view in page.calls if time_of_tick(view) < began and view.ended and view.ended >= began]
        assert len(late) == 1
        assert len(ran) > before


async def test_a_tick_that_nobody_was_left_to_plan_is_made_up_too(tmp_path: Path) -> None:
    def server(**options: Any) -> DurableMCP[Any]:
        mcp = DurableMCP("often", engine=tmp_path / "often.db")

        @mcp.job(**options)
        async def tick() -> None: ...

        return mcp

    second = timedelta(seconds=1)
    async with (first := server(every=second)).serving():
        await until(lambda: planned(first, 1))
    async with (second_life := server()).serving():  # as if its process had died before it planned the next one
        await until(lambda: all_are_over(second_life))
        (last, *_) = (await second_life.calls.find(tool="tick")).calls
    assert last.ended is not None
    later = last.ended + 2 * second
    await until(lambda: is_past(later))
    async with (third := server(every=second)).serving():
        await until(lambda: has_ended_late(third, later))


async def has_ended_in_time(mcp: DurableMCP[Any], since: datetime) -> bool:
    calls = (await mcp.calls.find(tool="tick")).calls
    return any(view.is_over and time_of_tick(view) >= since for view in calls)


async def has_ended_late(mcp: DurableMCP[Any], since: datetime) -> bool:
    calls = (await mcp.calls.find(tool="tick")).calls
    return any(view.is_over and view.created >= since and time_of_tick(view) <= view.created for view in calls)


def time_of_tick(view: CallView) -> datetime:
    assert view.key is not None
    return datetime.fromtimestamp(int(view.key.split()[-1]), UTC)  # one each second


async def is_past(when: datetime) -> bool:
    return datetime.now(UTC) > when


async def planned(mcp: DurableMCP[Any], count: int) -> bool:
    return len((await mcp.calls.find(tool="tick")).calls) >= count


async def all_are_over(mcp: DurableMCP[Any]) -> bool:
    return all(view.is_over for view in (await mcp.calls.find(tool="tick")).calls)


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
