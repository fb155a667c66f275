"""Tasks as the 2025-11-25 protocol has them: the client asks for one with its request, and its result is waited for.

https://modelcontextprotocol.io/specification/2025-11-25/basic/utilities/tasks. What they share with those of the
extension is in `task_view`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from mcp.server import Server
from mcp.server.context import CallNext, HandlerResult
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolResult,
    PaginatedRequestParams,
    ServerNotification,
)
from pydantic import BaseModel

from perdure.calls import Calls
from perdure.engine import CallView, DeleteEntry, GetEntry, ListEntries, Question, QuestionKind, SetEntry, SwapEntry
from perdure.errors import CallEnded, CallNotFound, Refused
from perdure.protocol.answer import failure_of
from perdure.protocol.reception import Reception
from perdure.protocol.sdk import RequestContext, watchers_of
from perdure.protocol.sessions import SessionConversation
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
from perdure.protocol.tasks import TaskParams, found_task

VERSION = "2025-11-25"

RELATED_TASK = "io.modelcontextprotocol/related-task"

CREATED = "io.perdure/createdTask"
"""In the `_meta` of a result that is a task: the SDK lets no handler of tools return the shape that tasks have."""

CANCELLED = "io.perdure/cancelled-tasks"
"""A store: tasks that were cancelled by request. They show so for ever, whatever their bodies make of it."""

ASKED, DONE = b'"asked"', b"true"
"""What it has of a task: that it is about to be cancelled, and that it was."""

BY_CLIENT = "by its client"

FEW = 20

PAGE = 50


def asks_for_task(ctx: RequestContext) -> bool:
    return ctx.protocol_version == VERSION and ctx.params is not None and ctx.params.get("task") is not None


def no_task(tool: str) -> MCPError:
    return MCPError(METHOD_NOT_FOUND, f"{tool!r} cannot run as a task: send the request without `task`")


# --- what a task looks like -----------------------------------------------------------------------


def created_task(view: CallView, now: datetime) -> CallToolResult:
    """What becomes `CreateTaskResult` on its way out."""
    return CallToolResult(content=[], _meta={CREATED: task_of(view, "working", now)})


def task_of(view: CallView, status: TaskStatus, now: datetime) -> dict[str, Any]:
    is_over = status in ("completed", "failed", "cancelled")
    task: dict[str, Any] = {
        "taskId": view.id,
        "status": status,
        "createdAt": created_at(view),
        "lastUpdatedAt": updated_at(view),
        "ttl": time_to_live(view),
    }
    if (message := status_message(view)) is not None:
        task["statusMessage"] = message
    if not is_over:
        task["pollInterval"] = poll_interval(view, now, is_asked=status == "input_required")
    return task


def status_of(view: CallView, asks: Collection[QuestionKind]) -> TaskStatus:
    """Here a tool's error fails its task."""
    match view.status:
        case "completed":
            return "failed" if view.result.get("isError") else "completed"
        case "failed" | "cancelled":
            return view.status
        case "running" | "waiting" | "stuck":
            return "input_required" if shown_questions(view, asks) else "working"


class TaskNews(BaseModel):
    method: str = "notifications/tasks/status"
    params: dict[str, Any]


# --- serving them ---------------------------------------------------------------------------------


Handler = Callable[[RequestContext, Any], Awaitable[HandlerResult]]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a request about tasks."""

    name: str
    """Empty for a nobody. What it cancelled shows so to itself: of a shared call the others still hold theirs."""
    calls: Calls
    asks: frozenset[QuestionKind]


class LegacyTasks:
    """A `ServerMiddleware`, and the handlers of its methods."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if not isinstance(result, dict):
            return result
        match ctx.method:
            case "initialize" if result.get("protocolVersion") == VERSION:
                return _with_capability(result)
            case "tools/call" if CREATED in (result.get("_meta") or {}):
                task = result["_meta"][CREATED]
                self._tell_of(ctx, task["taskId"])
                return {"task": task}
            case "tools/list" if ctx.protocol_version != VERSION:
                return _without_execution(result)
            case _:
                return result

    def serve(self, server: Server[Any]) -> None:
        """Beside the methods of the extension, which some of these share their names with."""
        methods: list[tuple[str, type[Any], Handler]] = [
            ("tasks/get", TaskParams, self._get),
            ("tasks/result", TaskParams, self._result),
            ("tasks/list", PaginatedRequestParams, self._list),
            ("tasks/cancel", TaskParams, self._cancel),
        ]
        for method, params, handler in methods:
            other = server.get_request_handler(method)
            server.add_request_handler(
                method, params, _by_era(method, handler, None if other is None else other.handler)
            )

    async def _get(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        asker = self._asker(ctx)
        return await self._shown(await found_task(asker.calls, params.task_id), asker)

    async def _list(self, ctx: RequestContext, params: PaginatedRequestParams) -> HandlerResult:
        asker = self._asker(ctx)
        try:
            page = await asker.calls.find(after=params.cursor, limit=PAGE)
        except Refused as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error
        tasks = [await self._shown(view, asker) for view in page.calls if view.kind == "tool"]
        return {"tasks": tasks} if page.next is None else {"tasks": tasks, "nextCursor": page.next}

    async def _cancel(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        asker = self._asker(ctx)
        view = await found_task(asker.calls, params.task_id)
        try:
            if view.is_over or await self._is_cancelled(view, asker):
                raise CallEnded(view)
            # First, or it could be seen to complete upon its cancel, and to be cancelled later.
            await self._reception.engine.store(CANCELLED, SwapEntry(asker.name, view.id, None, ASKED))
            await asker.calls.cancel(view.id, reason=BY_CLIENT)
        except CallEnded as error:
            status = await self._status(error.view, asker)
            raise MCPError(INVALID_PARAMS, f"The task has ended already: it is {status}") from error
        await self._reception.engine.store(CANCELLED, SetEntry(asker.name, view.id, DONE))
        await self._tidy(asker)
        with suppress(CallNotFound):  # of a shared call the client has let go
            view = await asker.calls.get(view.id)
        task = await self._shown(view, asker)
        await _notify(ctx.session, task)
        return task

    async def _result(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        """What the request would have got. The task's questions are asked while this waits."""
        asker = self._asker(ctx)
        view = await found_task(asker.calls, params.task_id)
        if not view.is_over and not await self._is_cancelled(view, asker):
            view = await self._reception.attend(view.id, _AboutTask(ctx))
        if view.status == "stuck":
            raise MCPError(INTERNAL_ERROR, str(failure_of(view)))
        return _related(await self._answer(view, asker), view.id)

    async def _answer(self, view: CallView, asker: Asker) -> dict[str, Any]:
        if await self._is_cancelled(view, asker):
            return {"content": [{"type": "text", "text": f"The call was cancelled: {BY_CLIENT}."}], "isError": True}
        return tool_answer(view)

    # --- the status ---

    def _asker(self, ctx: RequestContext) -> Asker:
        name = self._reception.caller_id(ctx) or ""
        return Asker(name, self._reception.calls_for(ctx), SessionConversation(ctx).asks)

    async def _shown(self, view: CallView, asker: Asker) -> dict[str, Any]:
        return task_of(view, await self._status(view, asker), now_of(self._reception.engine))

    async def _status(self, view: CallView, asker: Asker) -> TaskStatus:
        return "cancelled" if await self._is_cancelled(view, asker) else status_of(view, asker.asks)

    async def _is_cancelled(self, view: CallView, asker: Asker) -> bool:
        """By request, for which a client is told so at once; the call may still be cleaning up."""
        if view.status == "cancelled":
            return True
        match (await self._reception.engine.store(CANCELLED, GetEntry(asker.name, view.id))).entries:
            case ((_, mark),) if mark == DONE:
                return True
            case (_,):  # its cancel is on the way; it may have ended before
                return view.is_over and await self._was_asked_to_cancel(view)
            case _:
                return False

    async def _was_asked_to_cancel(self, view: CallView) -> bool:
        timeline = await self._reception.engine.timeline(view.id)
        return any(entry.kind in ("cancel asked", "cancel (unread)") and entry.name == BY_CLIENT for entry in timeline)

    async def _tidy(self, asker: Asker) -> None:
        """Forget a few that need not be remembered: those that ended as cancelled, and those that are gone."""
        engine = self._reception.engine
        # From anywhere on, or those that must stay would hide the others behind them.
        some = ListEntries(asker.name, after=secrets.token_hex(16), limit=FEW)
        for call_id, _ in (await engine.store(CANCELLED, some)).entries:
            try:
                is_needed = (await engine.get(call_id)).status != "cancelled"
            except CallNotFound:
                is_needed = False
            if not is_needed:
                await engine.store(CANCELLED, DeleteEntry(asker.name, call_id))

    # --- notifications ---

    def _tell_of(self, ctx: RequestContext, task_id: str) -> None:
        """Until it ends or its client leaves."""
        watchers = watchers_of(ctx)
        telling = self._tell(ctx.session, task_id, self._asker(ctx))
        # In a context of its own: a request's would keep its token alive.
        task = asyncio.get_running_loop().create_task(telling, context=Context())
        watchers.add(task)
        task.add_done_callback(watchers.discard)

    async def _tell(self, session: ServerSession, task_id: str, asker: Asker) -> None:
        told = ("working", None)
        with suppress(CallNotFound):
            async for view in asker.calls.watch(task_id):
                if view.is_over:  # until when it is kept is known to its row alone
                    view = await asker.calls.get(task_id)
                task = await self._shown(view, asker)
                news = (task["status"], task.get("statusMessage"))
                if task["status"] == "cancelled" and view.status != "cancelled":
                    return  # that was told when it was asked for
                if news != told:
                    told = news
                    await _notify(session, task)


def _by_era(method: str, ours: Handler, other: Handler | None) -> Handler:
    async def handle(ctx: RequestContext, params: Any) -> HandlerResult:
        if ctx.protocol_version == VERSION:
            return await ours(ctx, params)
        if other is None:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method)
        return await other(ctx, params)

    return handle


def _with_capability(result: dict[str, Any]) -> dict[str, Any]:
    tasks: dict[str, Any] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    return {**result, "capabilities": {**result["capabilities"], "tasks": tasks}}


def _without_execution(result: dict[str, Any]) -> dict[str, Any]:
    """Whether a tool may be a task is no word of other versions."""
    tools: list[dict[str, Any]] = result["tools"]
    return {**result, "tools": [{key: tool[key] for key in tool if key != "execution"} for tool in tools]}


def _related(result: dict[str, Any], task_id: str) -> dict[str, Any]:
    meta: dict[str, Any] = {**(result.get("_meta") or {}), RELATED_TASK: {"taskId": task_id}}
    return {**{name: value for name, value in result.items() if name != "resultType"}, "_meta": meta}


async def _notify(session: ServerSession, task: dict[str, Any]) -> None:
    await session.send_notification(cast("ServerNotification", TaskNews(params=task)))


class _AboutTask(SessionConversation):
    """What is asked while a client waits for a task's result says which task it is about."""

    async def ask(self, call_id: str, question: Question) -> bytes | None:
        return await super().ask(call_id, replace(question, params=_related(question.params, call_id)))
