"""What is sent to a call by name, perhaps by somebody without its code, fits what its body receives."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, field_validator

from perdure import DurableContext, DurableMCP, Signal
from perdure.calls import EVERYONE, Calls
from perdure.engine import Signal as Sent
from perdure.errors import AlreadyAnswered, Refused
from perdure.schema import check_json

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("it is odd")
        return number


at = Signal("at", datetime, once=True)
even = Signal("even", Even, once=True)


def server(where: str | Path = "memory:") -> DurableMCP[Any]:
    mcp = DurableMCP("signals", engine=where, log_level="CRITICAL")

    @mcp.tool(signals=[at])
    async def alarm(ctx: DurableContext) -> str:
        return (await ctx.receive(at)).isoformat()

    @mcp.job(signals=[even])
    async def halve(ctx: DurableContext) -> int:
        return (await ctx.receive(even)).number // 2

    return mcp


@pytest.mark.parametrize(("tool", "signal", "wrong"), [("alarm", at, "banana"), ("halve", even, {"number": 3})])
async def test_where_the_code_is_loaded_a_signal_sent_by_name_is_checked_by_its_type(
    tool: str, signal: Signal[Any], wrong: Any
) -> None:
    mcp = server()
    async with mcp.serving():
        call = await mcp.calls.start(tool, {})
        with pytest.raises(Refused, match="does not take this value"):
            await mcp.calls.signal(call.id, signal.name, wrong)
        await mcp.calls.cancel(call.id)


async def test_without_the_code_its_schema_refuses_what_is_no_date() -> None:
    mcp = server()
    async with mcp.serving():
        without_code = Calls(lambda: mcp.engine, caller=EVERYONE)
        call = await mcp.calls.start("alarm", {})
        with pytest.raises(Refused, match="'banana' is not a 'date-time'"):
            await without_code.signal(call.id, "at", "banana")
        await without_code.signal(call.id, "at", NOON)
        assert (await call.result(timeout=timedelta(seconds=10))) == NOON.isoformat()


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (datetime, NOON),
        (date, NOON.date()),
        (time, NOON.timetz()),
        (timedelta, timedelta(days=1, seconds=3)),
        (UUID, UUID(int=7)),
        (IPv4Address, IPv4Address("127.0.0.1")),
        (AnyUrl, AnyUrl("https://example.org/a")),
    ],
)
def test_the_schema_takes_what_the_signal_sends_and_no_banana(type: type[Any], value: Any) -> None:
    signal = Signal("typed", type)
    check_json("It", signal.spec.schema, signal.encode(value))
    with pytest.raises(Refused, match="banana"):
        check_json("It", signal.spec.schema, b'"banana"')


async def test_a_signal_that_does_not_fit_is_dropped_and_does_not_use_up_the_decision(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mcp = server()
    async with mcp.serving():
        call = await mcp.calls.start("halve", {})
        await mcp.engine.deliver(call.id, Sent("even", b'{"number":3}'))
        with caplog.at_level(logging.ERROR, "perdure"):
            await _sent(mcp, call.id, {"number": 8})
        assert await call.result(timeout=timedelta(seconds=10)) == 4
        timeline = await mcp.calls.timeline(call.id)
    assert "it is odd" in caplog.text
    assert [entry.kind for entry in timeline] == ["started", "signal", "completed"]


async def test_what_was_sent_to_a_sleeping_call_and_does_not_fit_is_dropped_when_it_wakes(tmp_path: Path) -> None:
    where = tmp_path / "calls.db"
    first = server(where)
    async with first.serving():
        call = await first.calls.start("halve", {})
    asleep = server(where)
    async with asleep.serving(work=False):
        await asleep.engine.deliver(call.id, Sent("even", b'{"number":3}'))
    awake = server(where)
    async with awake.serving():
        await _sent(awake, call.id, {"number": 8})
        assert await awake.calls.result(call.id, timeout=timedelta(seconds=10)) == 4
    again = server(where)
    async with again.serving():
        assert (await again.calls.get(call.id)).result == 4


async def _sent(mcp: DurableMCP[Any], call_id: str, value: Any) -> None:
    """Sent as soon as the one before is known not to have counted."""
    async with asyncio.timeout(10):
        while True:
            try:
                await mcp.calls.signal(call_id, "even", value)
            except AlreadyAnswered:
                await asyncio.sleep(0.01)
            else:
                return
