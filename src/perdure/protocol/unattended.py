"""The SDK's `Context` for a call whose request is gone: the lifespan's state is there, and nobody who listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.session import ServerSession
from mcp.server.subscriptions import SubscriptionBus
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.transport_context import TransportContext
from mcp_types.version import LATEST_MODERN_VERSION

METHODS = {"tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read"}


class _Nobody:
    """Where a request's client would be: what is said is lost, what is asked raises."""

    transport = TransportContext(kind="none", can_send_request=False)
    can_send_request = False
    message_metadata = None

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.cancel_requested = anyio.Event()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None: ...

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)


def unattended_context(
    server: MCPServer[Any], call_id: str, kind: str, state: Any, bus: SubscriptionBus
) -> Context[Any, Any]:
    session = ServerSession(_Nobody(call_id), Connection.from_envelope(LATEST_MODERN_VERSION, None, None))
    request = ServerRequestContext[Any, Any](
        session=session,
        lifespan_context=state,
        protocol_version=LATEST_MODERN_VERSION,
        method=METHODS[kind],
        request_id=call_id,
    )
    return Context(request_context=request, mcp_server=server, subscriptions=bus)
