"""Whose call a key names: each caller's own, all callers' where it is shared, and nobody's for nobodies."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from starlette.requests import HTTPConnection

from perdure import DurableContext, DurableMCP, Principal, current_step
from tests.protocol.asking import Gate, asked, calls_of, give_up, status_of, text, until, with_key
from tests.protocol.mounted import client_as, mounted
from tests.protocol.wired import STATELESS

MODES = ["legacy", STATELESS]
pytestmark = pytest.mark.parametrize("mode", MODES)


def who(connection: HTTPConnection) -> Principal | None:
    user = connection.headers.get("x-user")
    return None if user is None else Principal(user)


def server(**options: Any) -> DurableMCP[Any]:
    return DurableMCP("callers", engine="memory:", log_level="CRITICAL", **options)


# --- principals -----------------------------------------------------------------------------------


async def test_each_principal_has_keys_of_its_own(mode: str) -> None:
    mcp, ran = server(principal=who), list[str]()

    @mcp.tool(key="report")
    async def report(ctx: DurableContext) -> str:
        assert ctx.principal is not None
        ran.append(ctx.principal.subject)
        return ctx.principal.subject

    async with mounted(mcp) as url, client_as(url, mode, "ann") as ann, client_as(url, mode, "bob") as bob:
        answers = [text(await client.call_tool("report", {})) for client in (ann, bob, ann, bob)]
    assert answers == ["ann", "bob", "ann", "bob"]
    assert sorted(set(ran)) == ["ann", "bob"]


async def test_a_shared_call_is_everybodys_and_has_no_principal(mode: str) -> None:
    mcp, gate = server(principal=who), Gate()

    @mcp.tool(key="report", shared=True)
    async def report() -> str:
        return f"{await gate.pass_through()} for {current_step().principal}"

    async with (
        mounted(mcp) as url,
        client_as(url, mode, "ann") as ann,
        client_as(url, mode, "bob") as bob,
        asked(ann.call_tool("report", {})) as first,
    ):
        await gate.until(came=1)
        async with asked(bob.call_tool("report", {})) as second:
            gate.open()
            assert text(await first) == text(await second) == "1 for None"


async def test_one_principal_does_not_adopt_anothers_call(mode: str) -> None:
    mcp, gate = server(principal=who), Gate()

    @mcp.tool(on_disconnect="continue")
    async def slow() -> int:
        return await gate.pass_through()

    async with mounted(mcp) as url:
        async with client_as(url, mode, "ann") as ann, asked(ann.call_tool("slow", {})):
            await gate.until(came=1)
        gate.open()
        async with client_as(url, mode, "bob") as bob:
            assert text(await bob.call_tool("slow", {})) == "2"
        async with client_as(url, mode, "ann") as ann:
            assert text(await ann.call_tool("slow", {})) == "1"


async def test_an_idempotency_key_is_its_senders_own(mode: str) -> None:
    mcp, ran = server(principal=who), list[int]()

    @mcp.tool()
    async def pay(amount: int) -> int:
        ran.append(amount)
        return len(ran)

    async with mounted(mcp) as url, client_as(url, mode, "ann") as ann, client_as(url, mode, "bob") as bob:
        answers = [
            text(await client.call_tool("pay", {"amount": amount}, meta=with_key("k")))
            for client, amount in ((ann, 1), (bob, 2), (ann, 1))
        ]
    assert answers == ["1", "2", "1"]


async def test_stores_and_steps_know_who_asks_in_everything_that_is_ordinary(mode: str) -> None:
    mcp = server(principal=who)
    notes = mcp.store("notes", str, per_principal=True)

    @mcp.tool()
    async def write(text: str, ctx: DurableContext) -> None:
        await notes.set("only", text)

    @mcp.resource("note://{name}")
    async def note(name: str) -> str:
        return await notes.get(name, "nothing")

    @mcp.prompt()
    async def quote() -> str:
        return await notes.get("only", "nothing")

    @mcp.tool(durable=False)
    async def me() -> str:
        principal = current_step().principal
        return "nobody" if principal is None else principal.subject

    async with mounted(mcp) as url, client_as(url, mode, "ann") as ann, client_as(url, mode, "bob") as bob:
        await ann.call_tool("write", {"text": "ann's"})
        assert "ann's" in str(await ann.read_resource("note://only"))
        assert "nothing" in str(await bob.read_resource("note://only"))
        assert "ann's" in str(await ann.get_prompt("quote"))
        assert text(await bob.call_tool("me", {})) == "bob"


# --- nobodies -------------------------------------------------------------------------------------
# Somebody else's socket proves nothing: here nobody is the machine's own user.


async def test_a_nobody_is_refused_a_key_and_told_why(mode: str) -> None:
    mcp = server(principal=who)

    @mcp.tool(key="report")
    async def report() -> None: ...

    @mcp.prompt(key="draft")
    async def draft() -> str:
        return ""

    async with mounted(mcp, stateless_http=True) as url, client_as(url, mode) as client:
        refused = await client.call_tool("report", {})
        assert refused.is_error
        assert "authentication" in text(refused)
        assert "shared=True" in text(refused)
        with pytest.raises(MCPError, match="authentication"):
            await client.get_prompt("draft")
        assert await calls_of(mcp) == []


async def test_a_nobody_is_refused_an_idempotency_key(mode: str) -> None:
    mcp = server(principal=who)

    @mcp.tool()
    async def pay() -> None: ...

    async with mounted(mcp, stateless_http=True) as url, client_as(url, mode) as client:
        refused = await client.call_tool("pay", {}, meta=with_key("k"))
        assert "An idempotency key of 'pay' needs to know who asks" in text(refused)
        assert await calls_of(mcp) == []


async def test_nobodies_share_what_is_shared(mode: str) -> None:
    mcp, ran = server(principal=who), list[int]()

    @mcp.tool(key="report", shared=True)
    async def report() -> int:
        ran.append(1)
        return len(ran)

    async with mounted(mcp, stateless_http=True) as url, client_as(url, mode) as one, client_as(url, mode) as two:
        assert text(await one.call_tool("report", {})) == text(await two.call_tool("report", {})) == "1"


async def test_a_nobody_adopts_nothing(mode: str) -> None:
    mcp, gate = server(principal=who), Gate()

    @mcp.tool()
    async def slow() -> int:
        return await gate.pass_through()

    async with mounted(mcp, stateless_http=True) as url, client_as(url, mode) as client:
        async with asked(client.call_tool("slow", {})) as request:
            await gate.until(came=1)
            await give_up(request)
        gate.open()
        assert text(await client.call_tool("slow", {})) == "2"


# --- sessions -------------------------------------------------------------------------------------


async def test_a_session_is_a_caller_where_nothing_better_is_known(mode: str) -> None:
    if mode != "legacy":
        return
    mcp, ran = server(), list[int]()

    @mcp.tool(key="report")
    async def report() -> int:
        ran.append(1)
        return len(ran)

    async with mounted(mcp) as url, Client(url, mode=mode) as one, Client(url, mode=mode) as two:
        answers = [text(await client.call_tool("report", {})) for client in (one, two, one)]
    assert answers == ["1", "2", "1"]


# --- letting go of a shared call ------------------------------------------------------------------


async def test_a_shared_call_is_cancelled_when_the_last_who_asked_lets_go(mode: str) -> None:
    mcp, gate = server(principal=who), Gate()

    @mcp.tool(key="report", shared=True, on_disconnect="cancel")
    async def report(ctx: DurableContext) -> int:
        return await ctx.step(gate.pass_through)

    async def callers() -> int:
        ((call, _),) = await calls_of(mcp)
        return len((await mcp.calls.get(call)).callers)

    async def both_are_here() -> bool:
        return await callers() == 2

    async def one_has_left() -> bool:
        return await callers() == 1

    async with mounted(mcp) as url:
        async with client_as(url, mode, "bob") as bob, asked(bob.call_tool("report", {})):
            await gate.until(came=1)
            async with client_as(url, mode, "ann") as ann, asked(ann.call_tool("report", {})):
                await until(both_are_here)
            await until(one_has_left)
            ((call, status),) = await calls_of(mcp)
            assert status != "cancelled"
        await status_of(mcp, call, "cancelled")
