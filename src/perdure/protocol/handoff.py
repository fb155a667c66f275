"""Which requests may go on without waiting, as a task or behind a handle, and when that happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from perdure.engine import CallView, Engine
from perdure.protocol import legacy_tasks
from perdure.protocol.legacy_tasks import asks_for_task, no_task
from perdure.protocol.sdk import RequestContext
from perdure.protocol.stateless import is_for
from perdure.protocol.task_view import now_of
from perdure.protocol.tasks import TASKS, created_task, takes_tasks
from perdure.tool import Durable

AT_ONCE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Handoff:
    """The other way to a call's answer that a request has; `after` is how long it waits before it takes it."""

    after: timedelta | None
    reply: Callable[[CallView], Any]
    """What the request gets for the call that goes on."""


def refuse_task(tool: str, ctx: RequestContext | None) -> None:
    """Of what is not recorded nothing can be fetched later."""
    if ctx is not None and asks_for_task(ctx) and ctx.params is not None and ctx.params.get("name") == tool:
        raise no_task(tool)


def handoff_of(durable: Durable, ctx: RequestContext | None, engine: Engine) -> Handoff | None:
    """None where a request waits for the end. Raises where the client cannot hold what the tool requires."""
    if ctx is None or not is_for(ctx, durable):
        return None
    if durable.options.task == "forbidden":
        refuse_task(durable.name, ctx)
        return None
    if asks_for_task(ctx):
        return Handoff(AT_ONCE, lambda view: legacy_tasks.created_task(view, now_of(engine)))
    if takes_tasks(ctx):
        return Handoff(_after(durable), lambda view: created_task(view, now_of(engine)))
    if durable.options.task == "required":
        raise _required(durable, ctx)
    return None


def _after(durable: Durable) -> timedelta | None:
    return AT_ONCE if durable.options.task == "required" else durable.options.handoff_after


def _required(durable: Durable, ctx: RequestContext) -> MCPError:
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        try:
            require_client_extension(ctx, TASKS)
        except MCPError as error:
            return error
    return MCPError(METHOD_NOT_FOUND, f"{durable.name!r} runs only as a task: send `task` with the request")
