"""A durable tool, prompt or resource answers as the official SDK's would, result by result and error by error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from perdure import DurableMCP
from tests.protocol import ordinary
from tests.protocol.ordinary import CALLS, READS, RENDERINGS, Shape, as_body, as_it_is, as_sync, furnish

MODES = ["auto", "legacy"]
SHAPES = {"whole steps": as_it_is, "sync whole steps": as_sync, "bodies": as_body}


async def answer(asking: Awaitable[Any]) -> Any:
    try:
        return (await asking).model_dump(exclude={"meta"})
    except MCPError as error:
        return error.error.model_dump()


async def answers(server: MCPServer[Any], mode: str, ask: Callable[[Client], list[Awaitable[Any]]]) -> list[Any]:
    async with Client(server, mode=mode) as client:
        return [await answer(each) for each in ask(client)]


@pytest.fixture
def plain() -> MCPServer[Any]:
    server = MCPServer[Any]("plain", log_level="CRITICAL")
    furnish(server)
    return server


@pytest.fixture(params=SHAPES)
def durable(request: pytest.FixtureRequest) -> DurableMCP[Any]:
    shape: Shape = SHAPES[request.param]
    server = DurableMCP[Any]("plain", engine="memory:", log_level="CRITICAL")
    furnish(server, shape, **({} if shape is as_body else {"durable": True}))
    return server


@pytest.mark.parametrize("mode", MODES)
async def test_tools(mode: str, plain: MCPServer[Any], durable: DurableMCP[Any]) -> None:
    def ask(client: Client) -> list[Awaitable[Any]]:
        return [client.call_tool(tool, arguments) for tool, arguments in CALLS]

    expected, found = await answers(plain, mode, ask), await answers(durable, mode, ask)
    for call, want, have in zip(CALLS, expected, found, strict=True):
        assert have == want, call


@pytest.mark.parametrize("mode", MODES)
async def test_prompts(mode: str, plain: MCPServer[Any], durable: DurableMCP[Any]) -> None:
    def ask(client: Client) -> list[Awaitable[Any]]:
        return [client.get_prompt(prompt, arguments) for prompt, arguments in RENDERINGS]

    expected, found = await answers(plain, mode, ask), await answers(durable, mode, ask)
    for call, want, have in zip(RENDERINGS, expected, found, strict=True):
        assert have == want, call


@pytest.mark.parametrize("mode", MODES)
async def test_resources_and_templates(mode: str, plain: MCPServer[Any], durable: DurableMCP[Any]) -> None:
    def ask(client: Client) -> list[Awaitable[Any]]:
        return [client.read_resource(uri) for uri in READS]

    expected, found = await answers(plain, mode, ask), await answers(durable, mode, ask)
    for uri, want, have in zip(READS, expected, found, strict=True):
        assert have == want, uri


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_listed(mode: str, plain: MCPServer[Any], durable: DurableMCP[Any]) -> None:
    async def tools(client: Client) -> Any:
        listed = await client.list_tools()
        # That it can be a task is all that is new about a tool.
        alike = [tool.model_copy(update={"execution": None}) for tool in listed.tools]
        return listed.model_copy(update={"tools": alike})

    def ask(client: Client) -> list[Awaitable[Any]]:
        return [
            tools(client),
            client.list_prompts(),
            client.list_resources(),
            client.list_resource_templates(),
        ]

    assert await answers(durable, mode, ask) == await answers(plain, mode, ask)


async def test_every_one_of_them_is_recorded(durable: DurableMCP[Any]) -> None:
    async with durable.serving(), Client(durable) as client:
        await client.call_tool("plain", {"text": "x"})
        await client.get_prompt("greet", {"name": "x"})
        await client.read_resource("page://3")
        recorded = (await durable.calls.find()).calls
    assert {(call.kind, call.tool, call.status) for call in recorded} == {
        ("tool", "plain", "completed"),
        ("prompt", "greet", "completed"),
        ("resource", "page://{number}{?size}", "completed"),
    }


def test_the_corpus_has_each_tool_called() -> None:
    assert {fn.__name__ for fn in ordinary.TOOLS} <= {tool for tool, _ in CALLS}
