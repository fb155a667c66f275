"""What a client hears while it waits: progress that always increases, signs of life, log messages, changes of lists."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp_types import LoggingMessageNotificationParams

from perdure import DurableContext, DurableMCP
from perdure.engine import Progress
from perdure.protocol.conversation import Nobody
from perdure.protocol.progress import EVERY, FIRST_AFTER, Pulse
from perdure.protocol.replies import HandedOff, Handoff
from perdure.protocol.waiting import Waiting
from perdure.testing import trial
from perdure.testing.engine import TrialEngine
from perdure.testing.trial import next_second, trial_on
from tests.protocol.asking import BOUND, MODES, Gate, asked, text
from tests.protocol.views import view


class Heard(Nobody):
    """What was said to a client, in order."""

    def __init__(self) -> None:
        self.progress_told: list[tuple[float, float | None, str | None]] = []
        self._news = asyncio.Condition()

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        async with self._news:
            self.progress_told.append((progress, total, message))
            self._news.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(BOUND), self._news:
            await self._news.wait_for(lambda: len(self.progress_told) >= count)


def server() -> DurableMCP[Any]:
    return DurableMCP("progress", engine="memory:", log_level="CRITICAL")


# --- numbers --------------------------------------------------------------------------------------


async def progress_of(*reports: float | None) -> list[float]:
    """What is told where the call reports these, and None is a sign of life that was due."""
    heard = Heard()
    pulse = Pulse(heard, now=0)
    for version, report in enumerate(reports):
        if report is not None:
            assert pulse.follow(view(version=version, progress=Progress(report, None, None)))
        await pulse.beat(now=0)
    return [progress for progress, _, _ in heard.progress_told]


async def test_what_a_call_reports_is_told_as_it_is() -> None:
    assert await progress_of(0, 0.5, 3, 100) == [0, 0.5, 3, 100]


@pytest.mark.parametrize(
    "reports",
    [(None, None, None), (None, 0.0, None, 1.0), (5.0, None, 2.0, None, 5.0, 6.0), (1e300, None, None), (-3.0, None)],
)
async def test_whatever_it_reports_the_numbers_increase(reports: tuple[float | None, ...]) -> None:
    told = await progress_of(*reports)
    assert told == sorted(set(told))
    assert len(told) == len(reports)


async def test_a_sign_of_life_does_not_overtake_the_next_report() -> None:
    told = await progress_of(1, None, None, 2)
    assert told[-1] == 2


async def test_the_first_sign_of_life_comes_soon_and_the_others_seldom() -> None:
    pulse = Pulse(Heard(), now=100)
    assert pulse.due == 100 + FIRST_AFTER
    await pulse.beat(now=101)
    assert pulse.due == 101 + EVERY


# --- through a client -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_body_reports_its_progress(mode: str) -> None:
    mcp, heard, gates = server(), Heard(), [Gate(), Gate()]

    @mcp.tool()
    async def climb(ctx: DurableContext) -> str:
        await ctx.report_progress(1, 3, "base camp")
        await ctx.step(gates[0].pass_through)
        await ctx.set_status("resting")
        await ctx.step(gates[1].pass_through)
        await ctx.report_progress(3, 3, "top")
        return "done"

    async with (
        Client(mcp, mode=mode) as client,
        asked(client.call_tool("climb", {}, progress_callback=heard.progress)) as request,
    ):
        await heard.until(1)
        gates[0].open()
        await heard.until(2)
        gates[1].open()
        assert text(await request) == "done"
        await heard.until(3)
    first, second, third = heard.progress_told
    assert (first, third) == ((1, 3, "base camp"), (3, 3, "top"))
    assert 1 < second[0] < 3


@pytest.mark.parametrize("mode", MODES)
async def test_a_silent_call_gives_a_sign_of_life(mode: str) -> None:
    mcp, heard, gate = server(), Heard(), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with (
        Client(mcp, mode=mode) as client,
        asked(client.call_tool("slow", {}, progress_callback=heard.progress)) as request,
    ):
        await heard.until(1)
        gate.open()
        assert text(await request) == "1"


@pytest.mark.parametrize("mode", MODES)
async def test_log_messages_reach_the_client_that_waits(mode: str) -> None:
    mcp, entries = server(), list[tuple[str, Any, str | None]]()

    async def on_log(params: LoggingMessageNotificationParams) -> None:
        entries.append((params.level, params.data, params.logger))

    @mcp.tool()
    async def talk(ctx: DurableContext) -> str:
        await ctx.info({"step": 1})
        await ctx.debug("detail", logger_name="deep")
        await ctx.warning("two")
        return "done"

    async with Client(mcp, mode=mode, logging_callback=on_log, log_level="debug") as client:
        assert text(await client.call_tool("talk", {})) == "done"
        async with asyncio.timeout(BOUND):
            while len(entries) < 3:
                await client.list_tools()  # whatever was said before its answer is here
    assert entries == [("info", {"step": 1}, None), ("debug", "detail", "deep"), ("warning", "two", None)]


async def test_a_stateless_client_that_did_not_ask_for_log_messages_gets_none() -> None:
    mcp, entries = server(), list[Any]()

    async def on_log(params: LoggingMessageNotificationParams) -> None:
        entries.append(params)

    @mcp.tool()
    async def talk(ctx: DurableContext) -> None:
        await ctx.error("not for you")

    async with Client(mcp, logging_callback=on_log) as client:
        await client.call_tool("talk", {})
    assert entries == []


async def test_who_listens_hears_that_lists_changed() -> None:
    mcp = server()

    @mcp.tool()
    async def change(ctx: DurableContext) -> None:
        await ctx.notify_tools_changed()
        await ctx.notify_resource_updated("a://b")

    async with (
        Client(mcp) as client,
        client.listen(tools_list_changed=True, resource_subscriptions=["a://b"]) as events,
    ):
        await client.call_tool("change", {})
        async with asyncio.timeout(BOUND):
            heard = [type(await anext(aiter(events))).__name__ for _ in range(2)]
    assert sorted(heard) == ["ResourceUpdated", "ToolsListChanged"]


async def test_a_session_hears_that_lists_changed() -> None:
    mcp, methods = server(), list[str]()
    heard = asyncio.Event()

    async def on_message(message: Any) -> None:
        methods.append(message.method)
        heard.set()

    @mcp.tool()
    async def change(ctx: DurableContext) -> None:
        await ctx.notify_prompts_changed()

    async with Client(mcp, mode="legacy", message_handler=on_message) as client:
        await client.call_tool("change", {})
        async with asyncio.timeout(BOUND):
            await heard.wait()
    assert methods == ["notifications/prompts/list_changed"]


# --- in a trial -----------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [False, True])
async def test_in_a_trial_signs_of_life_come_in_its_own_time(crashes: bool) -> None:
    mcp, heard = server(), Heard()

    @mcp.tool()
    async def long(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(days=30))
        return "done"

    async with trial(mcp) as t, asked(t.client.call_tool("long", {}, progress_callback=heard.progress)) as request:
        await t.settle()
        assert heard.progress_told == []
        await t.advance(timedelta(seconds=FIRST_AFTER))
        assert len(heard.progress_told) == 1
        if crashes:
            await t.crash()
        await t.advance(timedelta(seconds=2 * EVERY))
        assert len(heard.progress_told) == 3
        await t.advance(timedelta(days=30))
        assert text(await request) == "done"
        # A leap is no month of signs.
        assert 3 < len(heard.progress_told) < 20


@pytest.mark.parametrize("crashes", [False, True])
async def test_in_a_trial_a_request_is_handed_off_in_its_own_time(crashes: bool) -> None:
    mcp, engine = server(), TrialEngine(next_second())

    @mcp.tool()
    async def long(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(days=30))
        return "done"

    async with trial_on(mcp, engine) as t:
        call = await t.start("long")
        await t.settle()
        waiting = Waiting(Nobody(), Handoff(timedelta(seconds=45), frozenset(), lambda view: view))
        async with asked(waiting.until_settled(engine, call.id)) as request:
            await t.settle()
            if crashes:
                await t.crash()
            await t.advance(timedelta(seconds=44))
            assert not request.done()
            await t.advance(timedelta(seconds=1))
            assert isinstance(await request, HandedOff)
