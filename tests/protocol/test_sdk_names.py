"""What perdure takes from `mcp` without a promise. A failure here means: read the SDK's changes before going on."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import version
from typing import Any

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.server import Server
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.server.subscriptions import ListenHandler
from mcp_types import ElicitRequestParams, ElicitResult, JSONRPCError, JSONRPCRequest, JSONRPCResponse
from mcp_types.jsonrpc import ErrorData

from perdure.protocol import sdk, wire

MODES = ["legacy", "2026-07-28"]


def test_the_sdk_is_of_the_minor_version_that_these_names_were_read_in() -> None:
    assert version("mcp").split(".")[:2] == ["2", "3"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_message_shows_its_connection_and_how_it_came(mode: str) -> None:
    server = MCPServer("small")
    seen: list[ServerRequestContext[Any, Any]] = []

    async def look(ctx: Context[Any]) -> None:
        seen.append(ctx.request_context)

    server.add_tool(look)
    async with Client(server, mode=mode) as client:
        await client.call_tool("look", {})
    (ctx,) = seen
    assert isinstance(sdk.connection_of(ctx), Connection)
    assert sdk.session_id(ctx) is None
    assert not isinstance(sdk.metadata_of(ctx), wire.StdioMessage)
    assert wire.wire_of(ctx) is None
    assert sdk.cancel_was_requested(ctx) is False


async def test_a_request_to_the_client_has_the_id_that_it_was_given() -> None:
    server = MCPServer("small")
    ids: list[Any] = []

    async def ask(ctx: Context[Any]) -> str:
        params: dict[str, Any] = {"message": "Yes?", "requestedSchema": {"type": "object", "properties": {}}}
        said = await sdk.ask_client(ctx.request_context, "elicitation/create", params, "question-1")
        return said["action"]

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        ids.append(context.request_id)
        return ElicitResult(action="decline")

    server.add_tool(ask)
    async with Client(server, mode="legacy", elicitation_callback=answer) as client:
        result = await client.call_tool("ask", {})
    assert result.structured_content == {"result": "decline"}
    assert ids == ["question-1"]


def test_a_server_has_a_lowlevel_one_with_a_lifespan_and_a_listen_handler() -> None:
    lowlevel = sdk.lowlevel_server(MCPServer("small"))
    assert isinstance(lowlevel, Server)
    assert callable(lowlevel.lifespan)
    entry = lowlevel.get_request_handler("subscriptions/listen")
    assert entry is not None
    assert isinstance(entry.handler, ListenHandler)
    sdk.close_listens(MCPServer("small"))


def test_a_registered_tool_shows_its_arguments_and_how_it_converts_results() -> None:
    server = MCPServer("small")

    def add(a: int, b: int) -> int:
        return a + b

    server.add_tool(add)
    metadata = sdk.registered_tool(server, "add").fn_metadata
    assert set(metadata.arg_model.model_fields) == {"a", "b"}
    assert metadata.validate_arguments({"a": 1, "b": "2"}) == {"a": 1, "b": 2}


def test_the_loop_over_streams_takes_what_the_stdio_runner_gives() -> None:
    parameters = inspect.signature(serve_dual_era_loop).parameters
    assert {"server", "read_stream", "write_stream", "lifespan_state", "init_options"} <= parameters.keys()


@pytest.mark.parametrize("request_id", [0, -1, 7, "7", 'a "quoted" \\ id'])
def test_answers_begin_with_the_members_that_the_wire_looks_for(request_id: int | str) -> None:
    result = JSONRPCResponse(jsonrpc="2.0", id=request_id, result={"content": []})
    error = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=-32602, message="no"))
    for answer in result, error:
        assert wire.answered_by(answer.model_dump_json(by_alias=True, exclude_unset=True).encode()) == request_id
        dumped = json.dumps(answer.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"))
        for event in f"event: message\r\ndata: {dumped}\r\n\r\n", f"id: 3\r\nevent: message\r\ndata: {dumped}\r\n\r\n":
            assert wire.answered_by(event.encode()) == request_id


@pytest.mark.parametrize(
    "message",
    [
        JSONRPCRequest(jsonrpc="2.0", id=1, method="elicitation/create", params={"result": 1}),
        JSONRPCError(jsonrpc="2.0", id=1, error=ErrorData(code=-32800, message="Request cancelled")),
        JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=-32603, message="Session terminated")),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(message: JSONRPCRequest | JSONRPCError) -> None:
    assert wire.answered_by(message.model_dump_json(by_alias=True, exclude_unset=True).encode()) is None
