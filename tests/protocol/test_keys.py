"""One call for all who ask under one key, and one outcome for all who repeat an idempotency key."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp_types import ToolAnnotations

from perdure import DurableContext, DurableMCP, ToolError
from tests.protocol.asking import MODES, Gate, asked, calls_of, text, with_key

pytestmark = pytest.mark.parametrize("mode", MODES)


def server(**options: Any) -> DurableMCP[Any]:
    return DurableMCP("keys", engine="memory:", log_level="CRITICAL", **options)


async def test_while_a_call_runs_its_key_attaches_who_asks_for_it(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool(key="report-{day}")
    async def report(day: str) -> int:
        return await gate.pass_through()

    async with Client(mcp, mode=mode) as ann, Client(mcp, mode=mode) as bob:
        async with asyncio.TaskGroup() as both:
            first = both.create_task(ann.call_tool("report", {"day": "monday"}))
            await gate.until(came=1)
            second = both.create_task(bob.call_tool("report", {"day": "monday"}))
            other = both.create_task(bob.call_tool("report", {"day": "tuesday"}))
            await gate.until(came=2)
            gate.open()
        assert text(first.result()) == text(second.result()) == "1"
        assert text(other.result()) == "2"
        assert len(await calls_of(mcp)) == 2


async def test_a_completed_call_answers_for_its_key_as_long_as_it_is_kept(mode: str) -> None:
    mcp, ran = server(), list[str]()

    @mcp.tool(key="invoice-{number}")
    async def send_invoice(number: int) -> str:
        ran.append("sent")
        return f"sent {number}"

    async with Client(mcp, mode=mode) as client:
        answers = [text(await client.call_tool("send_invoice", {"number": 7})) for _ in range(3)]
    assert answers == ["sent 7"] * 3
    assert ran == ["sent"]


async def test_what_is_read_is_read_again_unless_reuse_says_otherwise(mode: str) -> None:
    mcp, reads = server(), list[str]()
    read_only = ToolAnnotations(read_only_hint=True)

    @mcp.tool(key="rate", annotations=read_only)
    async def rate() -> int:
        reads.append("rate")
        return len(reads)

    @mcp.tool(key="slow-rate", reuse=timedelta(minutes=10), annotations=read_only)
    async def slow_rate() -> int:
        reads.append("slow rate")
        return len(reads)

    async with Client(mcp, mode=mode) as client:
        for _ in range(2):
            await client.call_tool("rate", {})
            await client.call_tool("slow_rate", {})
    assert reads == ["rate", "slow rate", "rate"]


async def test_other_arguments_under_a_key_conflict_and_nobody_sees_the_first_ones(mode: str) -> None:
    mcp = server()

    @mcp.tool(key="payment-{id}")
    async def pay(id: str, amount: int) -> str:
        return f"paid {amount}"

    async with Client(mcp, mode=mode) as client:
        assert text(await client.call_tool("pay", {"id": "x", "amount": 100})) == "paid 100"
        refused = await client.call_tool("pay", {"id": "x", "amount": 999})
    assert refused.is_error
    assert "'payment-x'" in text(refused)
    assert "other arguments" in text(refused)
    assert "100" not in text(refused)


async def test_arguments_are_compared_as_the_tool_gets_them(mode: str) -> None:
    mcp, ran = server(), list[int]()

    @mcp.tool(key="only")
    async def once(x: float = 5) -> str:
        ran.append(1)
        return "ran"

    async with Client(mcp, mode=mode) as client:
        for arguments in ({}, {"x": 5}, {"x": 5.0}, {"x": "5"}):
            assert text(await client.call_tool("once", arguments)) == "ran"
    assert ran == [1]


async def test_a_failed_call_frees_its_key(mode: str) -> None:
    mcp, tries = server(), list[int]()

    @mcp.tool(key="flaky")
    async def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ToolError("not today")
        return "done"

    async with Client(mcp, mode=mode) as client:
        assert (await client.call_tool("flaky", {})).is_error
        assert text(await client.call_tool("flaky", {})) == "done"


async def test_a_key_can_be_a_function_of_the_arguments(mode: str) -> None:
    mcp, ran = server(), list[str]()

    def of_city(city: str) -> str:
        return city.lower()

    @mcp.tool(key=of_city)
    async def visit(city: str, ctx: DurableContext) -> str:
        ran.append(ctx.call_id)
        return "visited"

    async with Client(mcp, mode=mode) as client:
        await client.call_tool("visit", {"city": "Oslo"})
        conflict = await client.call_tool("visit", {"city": "OSLO"})
    assert "'oslo'" in text(conflict)
    assert len(set(ran)) == 1


# --- idempotency keys -----------------------------------------------------------------------------


async def test_an_idempotency_key_stands_for_one_call_however_often_it_is_sent(mode: str) -> None:
    mcp, ran = server(), list[int]()

    @mcp.tool()
    async def pay(amount: int) -> int:
        ran.append(amount)
        return len(ran)

    async with Client(mcp, mode=mode) as client:
        answers = [text(await client.call_tool("pay", {"amount": 5}, meta=with_key("k1"))) for _ in range(3)]
        another = text(await client.call_tool("pay", {"amount": 5}, meta=with_key("k2")))
    assert (answers, another) == (["1"] * 3, "2")


async def test_an_idempotency_key_keeps_a_failure_too(mode: str) -> None:
    mcp, ran = server(), list[int]()

    @mcp.tool()
    async def pay() -> str:
        ran.append(1)
        raise ToolError(f"declined {len(ran)}")

    async with Client(mcp, mode=mode) as client:
        answers = {text(await client.call_tool("pay", {}, meta=with_key("k"))) for _ in range(2)}
    assert answers == {"Error executing tool pay: declined 1"}


async def test_an_idempotency_key_attaches_to_a_call_that_runs(mode: str) -> None:
    mcp, gate = server(), Gate()

    @mcp.tool()
    async def pay() -> int:
        return await gate.pass_through()

    async with Client(mcp, mode=mode) as client, asked(client.call_tool("pay", {}, meta=with_key("k"))) as first:
        await gate.until(came=1)
        async with asked(client.call_tool("pay", {}, meta=with_key("k"))) as second:
            async with asked(client.call_tool("pay", {}, meta=with_key("other"))):
                await gate.until(came=2)
            gate.open()
            assert text(await first) == text(await second) == "1"


async def test_an_idempotency_key_with_other_arguments_conflicts(mode: str) -> None:
    mcp = server()

    @mcp.tool()
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    async with Client(mcp, mode=mode) as client:
        await client.call_tool("pay", {"amount": 5}, meta=with_key("k"))
        refused = await client.call_tool("pay", {"amount": 6}, meta=with_key("k"))
    assert "idempotency key 'k'" in text(refused)


async def test_prompts_and_resources_take_idempotency_keys(mode: str) -> None:
    mcp, ran = server(), list[str]()

    @mcp.prompt()
    async def draft(topic: str, ctx: DurableContext) -> str:
        ran.append("draft")
        return str(len(ran))

    @mcp.resource("lottery://{number}")
    async def lottery(number: int, ctx: DurableContext) -> str:
        ran.append("lottery")
        return str(len(ran))

    async with Client(mcp, mode=mode) as client:
        for _ in range(2):
            await client.get_prompt("draft", {"topic": "x"}, meta=with_key("p"))
            await client.read_resource("lottery://6", meta=with_key("r"))
    assert ran == ["draft", "lottery"]


@pytest.mark.parametrize("key", ["", 7, "x" * 257])
async def test_what_is_no_key_is_refused(mode: str, key: Any) -> None:
    mcp = server()

    @mcp.tool()
    async def pay() -> str:
        return "paid"

    async with Client(mcp, mode=mode) as client:
        with pytest.raises(Exception, match="1 to 256 characters"):
            await client.call_tool("pay", {}, meta=with_key(key))
        assert await calls_of(mcp) == []
