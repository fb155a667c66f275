"""A durable server, from its smallest form on. Read from top to bottom; each test adds one thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations

from perdure import DurableContext, DurableMCP, Signal, ToolError, current_step, step

READ_ONLY = ToolAnnotations(read_only_hint=True)


async def test_it_is_used_like_the_official_server() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.tool()
    async def greet(name: str) -> str:
        """Greet somebody."""
        return f"Hello {name}"

    async with Client(mcp) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == ("greet", "Greet somebody.")
        result = await client.call_tool("greet", {"name": "Ann"})
        assert result.structured_content == {"result": "Hello Ann"}


async def test_but_each_call_is_kept_and_can_be_found_again() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.tool()
    async def greet(name: str) -> str:
        return f"Hello {name}"

    async with Client(mcp) as client:
        await client.call_tool("greet", {"name": "Ann"})
        (call,) = (await mcp.calls.find()).calls
        assert (call.tool, call.status) == ("greet", "completed")
        assert await mcp.calls.result(call.id) == "Hello Ann"


async def test_a_tool_without_a_durable_context_is_one_whole_step_and_does_as_it_likes() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.tool()
    async def charge(amount: int, ctx: Context) -> str:  # the official SDK's Context
        await ctx.report_progress(1, 2)
        key = current_step().idempotency_key  # the same in every life of this call: for the service that is paid
        return f"{amount} charged under {len(key)} digits"

    async with Client(mcp) as client:
        result = await client.call_tool("charge", {"amount": 5})
        assert result.structured_content == {"result": "5 charged under 32 digits"}


async def test_with_one_it_is_a_body_whose_effects_are_steps() -> None:
    mcp = DurableMCP("hello", engine="memory:")
    asked = list[str]()

    @step
    async def ask_the_service(city: str) -> str:
        asked.append(city)  # I/O belongs in here
        return f"sunny in {city}"

    @mcp.tool()
    async def forecast(city: str, ctx: DurableContext) -> str:
        today = await ask_the_service(city)
        await ctx.sleep(timedelta(milliseconds=1))  # it could be a week: nothing has to stay in memory for it
        return f"{today}, said {ctx.now():%Y}"

    async with Client(mcp) as client:
        result = await client.call_tool("forecast", {"city": "Oslo"})
        assert str(result.structured_content).startswith("{'result': 'sunny in Oslo, said 20")
    assert asked == ["Oslo"]


async def test_what_only_reads_is_ordinary_because_asking_again_is_free() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.tool(annotations=READ_ONLY)
    def list_cities() -> list[str]:
        return ["Oslo"]

    @mcp.resource("city://oslo")
    def oslo() -> str:
        return "a city"

    async with Client(mcp) as client:
        await client.call_tool("list_cities", {})
        await client.read_resource("city://oslo")
        assert (await mcp.calls.find()).calls == []


async def test_errors_are_told_as_the_official_server_tells_them() -> None:
    mcp = DurableMCP("hello", engine="memory:", log_level="CRITICAL")

    @mcp.tool()
    async def fly(city: str) -> str:
        if city == "Atlantis":
            raise ToolError("There is no such city.")
        raise ConnectionError("password=hunter2")

    async with Client(mcp) as client:
        known = await client.call_tool("fly", {"city": "Atlantis"})
        assert (known.is_error, "There is no such city." in str(known.content)) == (True, True)
        unknown = await client.call_tool("fly", {"city": "Oslo"})
        assert (unknown.is_error, "hunter2" in str(unknown.content)) == (True, False)


async def test_a_client_may_go_and_the_call_goes_on() -> None:
    mcp = DurableMCP("hello", engine="memory:")
    began, proceed, runs = asyncio.Event(), asyncio.Event(), list[str]()

    @mcp.tool()
    async def publish(title: str) -> str:
        runs.append(title)
        began.set()
        await proceed.wait()
        return f"{title} is published"

    async with mcp.serving():  # as long as the process lives, whichever clients come and go
        async with Client(mcp) as client:
            waiting = asyncio.create_task(client.call_tool("publish", {"title": "News"}))
            await began.wait()
            waiting.cancel()  # the client has lost patience
            await asyncio.wait({waiting})
        proceed.set()
        async with Client(mcp) as client:  # somebody asks the same again, and adopts the call
            result = await client.call_tool("publish", {"title": "News"})
            assert result.structured_content == {"result": "News is published"}
    assert runs == ["News"]


async def test_a_process_may_go_and_the_call_goes_on_in_the_next(tmp_path: Path) -> None:
    approval = Signal("approval", bool, once=True)
    drafts = list[str]()

    @step
    async def write_draft(title: str) -> str:
        drafts.append(title)
        return f"draft of {title}"

    def process() -> DurableMCP[Any]:
        mcp = DurableMCP("hello", engine=tmp_path / "calls.db")

        @mcp.tool(signals=[approval])
        async def publish(title: str, ctx: DurableContext) -> str:
            draft = await write_draft(title)
            await ctx.set_status("waits for approval")
            approved = await ctx.receive(approval)
            return f"{draft}: {'out' if approved else 'withdrawn'}"

        return mcp

    first = process()
    async with first.serving():
        call = await first.calls.start("publish", {"title": "News"})
        async for view in first.calls.watch(call.id):
            if view.text == "waits for approval":
                break
    second = process()
    async with second.serving():
        await second.calls.signal(call.id, approval, True)
        assert await second.calls.result(call.id) == "draft of News: out"
    assert drafts == ["News"]  # a step that has returned never runs again


async def test_a_key_makes_one_call_of_many_requests() -> None:
    mcp = DurableMCP("hello", engine="memory:")
    sent = list[int]()

    @mcp.tool(key="invoice-{number}")
    async def send_invoice(number: int) -> str:
        sent.append(number)
        return f"invoice {number} is sent"

    async with Client(mcp) as client:
        for number in (1, 1, 2, 1):
            await client.call_tool("send_invoice", {"number": number})
    assert sent == [1, 2]


async def test_a_client_that_knows_what_it_repeats_says_so_with_an_idempotency_key() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.tool()
    async def draw_lot(ctx: DurableContext) -> float:
        return ctx.random.random()

    async with Client(mcp) as client:
        one, same, other = [
            (await client.call_tool("draw_lot", {}, meta={"io.perdure/idempotencyKey": key})).structured_content
            for key in ("a", "a", "b")
        ]
    assert one == same != other


async def test_prompts_and_resources_can_be_durable_too() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.prompt()
    async def interview(person: str, ctx: DurableContext) -> str:
        return f"Interview {person}"

    @mcp.resource("report://{year}")
    async def report(year: int, ctx: DurableContext) -> str:
        return f"report of {year}"

    async with Client(mcp) as client:
        assert "Interview Ann" in str((await client.get_prompt("interview", {"person": "Ann"})).messages)
        assert "report of 2026" in str((await client.read_resource("report://2026")).contents)
        assert len((await mcp.calls.find()).calls) == 2


async def test_a_job_is_durable_work_that_no_client_sees() -> None:
    mcp = DurableMCP("hello", engine="memory:")

    @mcp.job()
    async def tidy(room: str) -> str:
        return f"{room} is tidy"

    @mcp.tool()
    async def tidy_all(rooms: list[str], ctx: DurableContext) -> list[str]:
        return list(await asyncio.gather(*(tidy(room) for room in rooms)))  # child calls, side by side

    async with Client(mcp) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["tidy_all"]
        result = await client.call_tool("tidy_all", {"rooms": ["hall", "attic"]})
        assert result.structured_content == {"result": ["hall is tidy", "attic is tidy"]}


async def test_a_store_keeps_what_outlives_calls() -> None:
    mcp = DurableMCP("hello", engine="memory:")
    visits = mcp.store("visits", int)

    @mcp.tool()
    async def visit(city: str, ctx: DurableContext) -> int | None:
        return await visits.update(city, lambda before: (before or 0) + 1)

    @mcp.resource("visits://all")
    async def all_visits() -> dict[str, int]:
        return dict(await visits.items())

    async with Client(mcp) as client:
        for city in ("Oslo", "Rome", "Oslo"):
            await client.call_tool("visit", {"city": city})
        assert "2" in str((await client.read_resource("visits://all")).contents)


async def test_the_lifespan_opens_what_all_share() -> None:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[dict[str, str]]:
        yield {"greeting": "Good day"}

    mcp = DurableMCP("hello", engine="memory:", lifespan=lifespan)

    @mcp.tool()
    async def greet(name: str) -> str:
        return f"{mcp.state['greeting']}, {name}"

    async with Client(mcp) as client:
        assert (await client.call_tool("greet", {"name": "Ann"})).structured_content == {"result": "Good day, Ann"}
