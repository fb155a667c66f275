"""`subscriptions/listen` with `taskIds`: the SDK serves the stream, and tasks are told of on it beside all else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver.server import require_client_extension
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    INVALID_PARAMS,
    RequestId,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from perdure.calls import Calls
from perdure.engine import QuestionKind
from perdure.errors import CallNotFound
from perdure.protocol.reception import Reception
from perdure.protocol.sdk import RequestContext
from perdure.protocol.stateless import StatelessConversation
from perdure.protocol.task_view import now_of
from perdure.protocol.tasks import TASKS, detailed_task, found_task

MOST_TASKS = 1000
"""That one stream is told of: each costs a watch."""

PASSING = {"lastUpdatedAt", "pollIntervalMs"}
"""What alone is no news of a task."""


class TaskNews(BaseModel):
    method: str = "notifications/tasks"
    params: dict[str, Any]


class TaskListening:
    """A `ServerMiddleware`."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method != "subscriptions/listen" or ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return await call_next(ctx)
        wanted = _task_ids(ctx.params)
        if not wanted:
            return await call_next(ctx)
        require_client_extension(ctx, TASKS)
        tasks = await _seen(self._reception.calls_for(ctx), wanted)
        refused: MCPError | None = None
        result: HandlerResult = None
        async with anyio.create_task_group() as telling:
            stream = _Stream(ctx, self._reception, tasks, telling)
            try:
                result = await call_next(replace(ctx, session=cast("ServerSession", stream)))
            except MCPError as error:
                refused = error  # raised in here it would come out as a group
            telling.cancel_scope.cancel()
        if refused is not None:
            raise refused
        return result


def _task_ids(params: Mapping[str, Any] | None) -> list[str]:
    asked: Any = (params or {}).get("notifications")
    ids: Any = cast("dict[str, Any]", asked).get("taskIds") if isinstance(asked, dict) else None
    if ids is None:
        return []
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in cast("list[Any]", ids)):
        raise MCPError(INVALID_PARAMS, "taskIds must be a list of texts")
    unique = list(dict.fromkeys(cast("list[str]", ids)))
    if len(unique) > MOST_TASKS:
        raise MCPError(INVALID_PARAMS, f"A stream is told of {MOST_TASKS} tasks at most")
    return unique


async def _seen(calls: Calls, task_ids: list[str]) -> list[str]:
    """Those that the client may hear of."""
    seen: list[str] = []
    for task_id in task_ids:
        with suppress(MCPError):
            seen.append((await found_task(calls, task_id)).id)
    return seen


class _Stream:
    """The session as the SDK's listen sees it: when that acknowledges, it names the tasks too, and begins to tell."""

    def __init__(self, ctx: RequestContext, reception: Reception, tasks: list[str], telling: TaskGroup) -> None:
        self._session = ctx.session
        self._request_id = ctx.request_id
        self._asks = StatelessConversation(ctx).asks
        self._calls = reception.calls_for(ctx)
        self._engine = reception.engine
        self._tasks = tasks
        self._telling = telling

    async def send_notification(self, notification: ServerNotification, related_request_id: RequestId | None) -> None:
        if not isinstance(notification, SubscriptionsAcknowledgedNotification):
            await self._session.send_notification(notification, related_request_id)
            return
        await self._session.send_notification(_naming(notification, self._tasks), related_request_id)
        for task in self._tasks:
            self._telling.start_soon(self._tell, task, self._asks)

    async def _tell(self, task_id: str, asks: frozenset[QuestionKind]) -> None:
        told: dict[str, Any] | None = None
        meta = {SUBSCRIPTION_ID_META_KEY: self._request_id}
        with suppress(CallNotFound):
            async for view in self._calls.watch(task_id):
                if view.is_over:  # until when it is kept is known to its row alone
                    view = await self._calls.get(task_id)
                task = detailed_task(view, asks, now_of(self._engine))
                news = {name: value for name, value in task.items() if name not in PASSING}
                if news != told:
                    told = news
                    about = TaskNews(params={"_meta": meta, **task})
                    await self._session.send_notification(cast("ServerNotification", about), self._request_id)


def _naming(acknowledged: SubscriptionsAcknowledgedNotification, tasks: list[str]) -> Any:
    honored = acknowledged.params.notifications.model_dump(by_alias=True, exclude_none=True)
    filter_ = SubscriptionFilter.model_validate({**honored, "taskIds": tasks})
    return acknowledged.model_copy(update={"params": acknowledged.params.model_copy(update={"notifications": filter_})})
