"""What perdure uses of `mcp` beyond its public API. No other module may touch a private name of it.

`tests/protocol/test_sdk_names.py` fails when a release of the SDK changes one of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server import Server
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.server.subscriptions import ListenHandler, SubscriptionBus
from mcp.shared.dispatcher import CallOptions, DispatchContext
from mcp.shared.message import MessageMetadata
from mcp_types import SubscriptionsListenRequestParams

RequestContext = ServerRequestContext[Any, Any]


def lowlevel_server(server: MCPServer[Any]) -> Server[Any]:
    return server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  it has no public name


def registered_tool(server: MCPServer[Any], name: str) -> Tool:
    """What the SDK made of a tool at its registration: its argument model, its conversion of results."""
    tool = server._tool_manager.get_tool(name)  # pyright: ignore[reportPrivateUsage]  it has no public name
    assert tool is not None
    return tool


def connection_of(ctx: RequestContext) -> Connection:
    """Sessions era: the same object for every message of a session. Stateless era: one per request."""
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]  it has no public name


def session_id(ctx: RequestContext) -> str | None:
    """The id that the transport gave to the session; a header of that name may be anybody's invention."""
    return connection_of(ctx).session_id


def watchers_of(ctx: RequestContext) -> set[asyncio.Task[None]]:
    """Tasks that end with the connection on which the request came."""
    connection = connection_of(ctx)
    watchers: set[asyncio.Task[None]] | None = connection.state.get("perdure.watchers")
    if watchers is None:
        watchers = set[asyncio.Task[None]]()
        connection.state["perdure.watchers"] = watchers
        connection.exit_stack.callback(_cancel_all, watchers)
    return watchers


def _cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()


def metadata_of(ctx: RequestContext) -> MessageMetadata:
    """What the transport attached to the message; ours on stdio attaches something of its own."""
    return _dispatched(ctx).message_metadata


def cancel_was_requested(ctx: RequestContext) -> bool:
    """The client sent `notifications/cancelled` for this request, and the transport passed it on."""
    return _dispatched(ctx).cancel_requested.is_set()


async def ask_client(ctx: RequestContext, method: str, params: dict[str, Any], request_id: str) -> dict[str, Any]:
    """Send a request to the client, on the stream of the one that it waits for. Raises `MCPError` as it answers."""
    return await _dispatched(ctx).send_raw_request(method, params, CallOptions(request_id=request_id))


def serve_listens(server: MCPServer[Any], bus: SubscriptionBus, most: int) -> None:
    """Serve `subscriptions/listen` to so many clients at once; the SDK's server has no setting for it."""
    handler = ListenHandler(bus, max_subscriptions=most)
    lowlevel_server(server).add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, handler)


def close_listens(server: MCPServer[Any]) -> None:
    """End every `subscriptions/listen` with its result, as the specification asks of a server that leaves."""
    entry = lowlevel_server(server).get_request_handler("subscriptions/listen")
    if entry is not None and isinstance(entry.handler, ListenHandler):
        entry.handler.close()


def _dispatched(ctx: RequestContext) -> DispatchContext[Any]:
    return ctx.session._request_outbound  # pyright: ignore[reportPrivateUsage]  it has no public name
