"""The Tasks extension of the stateless era: a call that a client holds by its id, and comes back for.

https://github.com/modelcontextprotocol/ext-tasks, specification/draft/tasks.md. Whether a request becomes a task is
decided in `handoff`; what a task is, in `task_view`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from mcp.server.context import HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INVALID_PARAMS, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from perdure.calls import Calls
from perdure.engine import CallView, QuestionKind
from perdure.errors import CallEnded, CallNotFound
from perdure.protocol.inputs import answers_in, give, input_requests, until_taken
from perdure.protocol.reception import Reception
from perdure.protocol.sdk import RequestContext
from perdure.protocol.stateless import StatelessConversation
from perdure.protocol.task_view import (
    TaskStatus,
    created_at,
    now_of,
    poll_interval,
    shown_questions,
    status_message,
    time_to_live,
    tool_answer,
    updated_at,
)

TASKS = "io.modelcontextprotocol/tasks"

MOMENT = 0.02
"""Seconds that a look at a call at work waits for what comes. Most that are looked at right after they began end in it;
and who looks again and again without a pause leaves the server time to work."""


def takes_tasks(ctx: RequestContext) -> bool:
    """The client said with this very request that it can hold a task."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = ctx.session.client_capabilities
    return capabilities is not None and TASKS in (capabilities.extensions or {})


# --- what a task looks like -----------------------------------------------------------------------


def created_task(view: CallView, now: datetime) -> dict[str, Any]:
    """`CreateTaskResult`: the answer to a request that goes on as a task."""
    return {"resultType": "task", **_task(view, _status(view), now, is_asked=False)}


def detailed_task(view: CallView, asks: Collection[QuestionKind], now: datetime) -> dict[str, Any]:
    """`DetailedTask`, for a client that can be asked these kinds of questions."""
    questions = () if view.is_over else shown_questions(view, asks)
    if questions:
        return {**_task(view, "input_required", now, is_asked=True), "inputRequests": input_requests(questions)}
    status = _status(view)
    task = _task(view, status, now, is_asked=False)
    if status not in ("completed", "failed"):
        return task
    try:
        return {**task, "status": "completed", "result": tool_answer(view)}
    except MCPError as error:
        return {**task, "status": "failed", "error": error.error.model_dump(mode="json", exclude_none=True)}


def _status(view: CallView) -> TaskStatus:
    """`failed` may still turn out to be a tool's error, which completes a task."""
    match view.status:
        case "completed" | "failed" | "cancelled":
            return view.status
        case "running" | "waiting" | "stuck":
            return "working"


def _task(view: CallView, status: TaskStatus, now: datetime, *, is_asked: bool) -> dict[str, Any]:
    task: dict[str, Any] = {
        "taskId": view.id,
        "status": status,
        "createdAt": created_at(view),
        "lastUpdatedAt": updated_at(view),
        "ttlMs": time_to_live(view),
    }
    if (message := status_message(view)) is not None:
        task["statusMessage"] = message
    if not view.is_over:
        task["pollIntervalMs"] = poll_interval(view, now, is_asked=is_asked)
    return task


# --- the methods ----------------------------------------------------------------------------------


class TaskParams(RequestParams):
    task_id: str


class UpdateTaskParams(TaskParams):
    input_responses: dict[str, Any]


class Tasks(Extension):
    identifier = TASKS

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def methods(self) -> Sequence[MethodBinding]:
        return [
            _bind("tasks/get", TaskParams, self._get),
            _bind("tasks/update", UpdateTaskParams, self._update),
            _bind("tasks/cancel", TaskParams, self._cancel),
        ]

    async def _get(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        view = await self._in_a_moment(await self._found(ctx, params))
        return {
            "resultType": "complete",
            **detailed_task(view, StatelessConversation(ctx).asks, now_of(self._reception.engine)),
        }

    async def _update(self, ctx: RequestContext, params: UpdateTaskParams) -> HandlerResult:
        view = await self._found(ctx, params)
        answers = answers_in(params.input_responses, view.questions)
        for answer in answers:
            await give(self._reception.engine, view.id, answer)
        if answers:
            await until_taken(self._reception.calls_for(ctx), view.id, [answer.name for answer in answers])
        return {"resultType": "complete"}

    async def _cancel(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        view = await self._found(ctx, params)
        with suppress(CallEnded):
            await self._reception.calls_for(ctx).cancel(view.id, reason="by its client")
        return {"resultType": "complete"}

    async def _in_a_moment(self, view: CallView) -> CallView:
        """What becomes of a call that is at work."""
        if view.is_over or view.status == "stuck" or view.questions or view.wakes is not None:
            return view
        engine = self._reception.engine
        with suppress(TimeoutError, CallNotFound):
            async with asyncio.timeout(MOMENT):
                await anext(engine.watch(view.id, view.version))
            return await engine.get(view.id)
        return view

    async def _found(self, ctx: RequestContext, params: TaskParams) -> CallView:
        require_client_extension(ctx, TASKS)
        _check_header(ctx, params.task_id)
        return await found_task(self._reception.calls_for(ctx), params.task_id)


def _bind(method: str, params: type[Any], handler: Callable[[RequestContext, Any], Any]) -> MethodBinding:
    return MethodBinding(method, params, handler, frozenset(MODERN_PROTOCOL_VERSIONS))


def _check_header(ctx: RequestContext, task_id: str) -> None:
    """Over HTTP the header of the name carries the task's id, for whoever routes by it."""
    if ctx.request is None:
        return
    header = ctx.request.headers.get(MCP_NAME_HEADER)
    if header is None or decode_header_value(header.strip()) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} must be the request's taskId")


async def found_task(calls: Calls, task_id: str) -> CallView:
    """The call that a task id means. One that never was, is gone or is another's: nobody can tell them apart."""
    try:
        view = await calls.get(task_id)
    except CallNotFound:
        view = None
    if view is None or view.kind != "tool":
        raise MCPError(INVALID_PARAMS, "Task not found")
    return view
