"""Which requests may go on without waiting, as a task or behind a handle, and when that happens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from perdure.engine import Engine, QuestionKind
from perdure.protocol import legacy_tasks
from perdure.protocol.legacy_tasks import asks_for_task, no_task
from perdure.protocol.replies import Handoff
from perdure.protocol.sdk import RequestContext
from perdure.protocol.stateless import is_for
from perdure.protocol.task_view import now_of
from perdure.protocol.tasks import TASKS, created_task, takes_tasks
from perdure.tool import Durable

AT_ONCE = timedelta(0)

NOTHING = frozenset[QuestionKind]()
TO_PEOPLE = frozenset[QuestionKind](("form", "url"))
EVERYTHING = frozenset[QuestionKind]((*TO_PEOPLE, "sampling"))


def refuse_task(tool: str, ctx: RequestContext | None) -> None:
    """Of what is not recorded nothing can be fetched later."""
    if ctx is not None and asks_for_task(ctx) and ctx.params is not None and ctx.params.get("name") == tool:
        raise no_task(tool)


class Handoffs:
    """Of one server. `handles`: clients that know no tasks get handles; `has_model`: the server samples by itself."""

    def __init__(self, engine: Callable[[], Engine], *, handles: bool, has_model: bool) -> None:
        self._engine = engine
        self._handles = handles
        self._answerable = TO_PEOPLE if has_model else EVERYTHING

    def of(self, durable: Durable, ctx: RequestContext | None) -> Handoff | None:
        """None where a request waits for the end. Raises where the client cannot hold what the tool requires."""
        if ctx is None or not is_for(ctx, durable):
            return None
        if durable.options.task == "forbidden":
            refuse_task(durable.name, ctx)
            return None
        after = AT_ONCE if asks_for_task(ctx) or durable.options.task == "required" else durable.options.handoff_after
        # Nobody waits for what is handed off at once: whether its client could be asked is no matter.
        answerable = self._answerable if after == AT_ONCE else NOTHING
        if asks_for_task(ctx):
            return Handoff(AT_ONCE, answerable, lambda view: legacy_tasks.created_task(view, now_of(self._engine())))
        if takes_tasks(ctx):
            return Handoff(after, answerable, lambda view: created_task(view, now_of(self._engine())))
        if self._handles and after is not None:
            from perdure.protocol.handles import handle_of  # its models are for servers that give handles

            return Handoff(after, self._answerable, handle_of)
        if durable.options.task == "required":
            raise _required(durable, ctx)
        return None

    def may_give_handle(self, durable: Durable) -> bool:
        options = durable.options
        return self._handles and (
            options.task == "required" or (options.task == "optional" and options.handoff_after is not None)
        )


def _required(durable: Durable, ctx: RequestContext) -> MCPError:
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        try:
            require_client_extension(ctx, TASKS)
        except MCPError as error:
            return error
    return MCPError(METHOD_NOT_FOUND, f"{durable.name!r} runs only as a task: send `task` with the request")
