"""The server that the conformance suite asks for: `python -m tests.conformance.server FILE`, on a port of the system's.

Names, texts and shapes are the suite's. Roots have no counterpart in a body, so the tools that ask for them are
ordinary and speak through the SDK.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, InputUnavailable

AT_ONCE = timedelta(0)
SOON = timedelta(seconds=5)


class Name(BaseModel):
    name: str


class Matter(BaseModel):
    context: str


class Color(BaseModel):
    color: str


class Consent(BaseModel):
    ok: bool


class Confirmation(BaseModel):
    confirm: bool


def make(file: str) -> DurableMCP[Any]:
    mcp = DurableMCP[Any]("conformance", engine=file, log_level="ERROR")
    add_tasks(mcp)
    add_questions(mcp)
    add_questions_of_the_sdk(mcp)
    return mcp


def add_tasks(mcp: DurableMCP[Any]) -> None:
    @mcp.tool(durable=False)
    def greet(name: str) -> str:
        return f"Hello, {name}!"

    @mcp.tool(handoff_after=AT_ONCE)
    async def slow_compute(ctx: DurableContext, seconds: float = 0, label: str = "") -> str:
        await ctx.sleep(timedelta(seconds=seconds))
        return f"computed {label}"

    @mcp.tool(task="required")
    async def failing_job(ctx: DurableContext) -> str:
        await ctx.sleep(timedelta(seconds=1))
        raise ToolError("the job failed")

    @mcp.tool(handoff_after=AT_ONCE)
    async def protocol_error_job(ctx: DurableContext) -> str:
        raise MCPError(INTERNAL_ERROR, "an error of the protocol")

    @mcp.tool(handoff_after=AT_ONCE)
    async def confirm_delete(filename: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Delete {filename}?", Confirmation)
        return f"{filename}: {said.action}"

    @mcp.tool(handoff_after=AT_ONCE)
    async def multi_input(ctx: DurableContext) -> str:
        name, consent = await asyncio.gather(
            ctx.elicit("What is your name?", Name, name="name"),
            ctx.elicit("Are you sure?", Confirmation, name="sure"),
        )
        return f"{name.action} and {consent.action}"

    @mcp.tool(handoff_after=SOON)
    async def test_tool_with_task(ctx: DurableContext) -> str:
        said = await ctx.elicit("What is your name?", Name, name="user_name")
        await ctx.sleep(SOON + timedelta(seconds=1))
        return f"Hello, {said.data.name}!" if said.action == "accept" else said.action


def add_questions(mcp: DurableMCP[Any]) -> None:
    @mcp.tool()
    async def test_input_required_result_elicitation(ctx: DurableContext) -> str:
        said = await ctx.elicit("What is your name?", Name, name="user_name")
        return f"Hello, {said.data.name}!" if said.action == "accept" else said.action

    @mcp.tool()
    async def test_input_required_result_sampling(ctx: DurableContext) -> str:
        return (await ctx.sample("What is the capital of France?", max_tokens=100)).text

    async def confirm(ctx: DurableContext) -> str:
        said = await ctx.elicit("Please confirm", Consent, name="confirm")
        return "state-ok" if said.action == "accept" else said.action

    @mcp.tool()
    async def test_input_required_result_request_state(ctx: DurableContext) -> str:
        return await confirm(ctx)

    @mcp.tool()
    async def test_input_required_result_tampered_state(ctx: DurableContext) -> str:
        return await confirm(ctx)

    @mcp.tool()
    async def test_input_required_result_multi_round(ctx: DurableContext) -> str:
        name = await ctx.elicit("Step 1: What is your name?", Name, name="step1")
        color = await ctx.elicit("Step 2: What is your favorite color?", Color, name="step2")
        return f"{name.action} and {color.action}"

    @mcp.tool()
    async def test_input_required_result_capabilities(ctx: DurableContext) -> str:
        """Asks whom it can: a person, else a model."""
        try:
            return (await ctx.elicit("What is your name?", Name)).action
        except InputUnavailable:
            return (await ctx.sample("What is your name?")).text

    @mcp.prompt()
    async def test_input_required_result_prompt(ctx: DurableContext) -> str:
        said = await ctx.elicit("What context should the prompt use?", Matter, name="user_context")
        return f"Use {said.data.context}." if said.action == "accept" else said.action


def add_questions_of_the_sdk(mcp: DurableMCP[Any]) -> None:
    @mcp.tool(durable=False)
    async def test_input_required_result_list_roots(ctx: Context) -> CallToolResult | InputRequiredResult:
        roots = (ctx.input_responses or {}).get("client_roots")
        if roots is None:
            return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
        return CallToolResult(content=[TextContent(type="text", text=f"Roots: {roots}")])

    @mcp.tool(durable=False)
    async def test_input_required_result_multiple_inputs(ctx: Context) -> CallToolResult | InputRequiredResult:
        given = ctx.input_responses or {}
        if not {"user_name", "greeting", "client_roots"} <= given.keys():
            return InputRequiredResult(
                input_requests={
                    "user_name": ElicitRequest(
                        params=ElicitRequestFormParams(
                            message="What is your name?", requested_schema=Name.model_json_schema()
                        )
                    ),
                    "greeting": CreateMessageRequest(
                        params=CreateMessageRequestParams(
                            messages=[
                                SamplingMessage(
                                    role="user", content=TextContent(type="text", text="Generate a greeting")
                                )
                            ],
                            max_tokens=50,
                        )
                    ),
                    "client_roots": ListRootsRequest(),
                },
                request_state="asked",
            )
        return CallToolResult(content=[TextContent(type="text", text=f"Got {', '.join(sorted(given))}.")])


if __name__ == "__main__":
    make(sys.argv[1]).run("streamable-http", port=0)
