"""Tasks as clients hold them: the official client with an extension of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp.client.session import ClientSession
from mcp_types import (
    CallToolResult,
    Request,
    RequestParams,
    Result,
    SubscriptionFilter,
    SubscriptionsListenRequest,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from perdure.protocol.tasks import TASKS
from tests.protocol.asking import BOUND

ENDED = ("completed", "failed", "cancelled")


class Task(Result):
    """A task in full, as `tasks/get` and notifications have it; what is not there is None."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    task_id: str
    status: str
    status_message: str | None = None
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    input_requests: dict[str, dict[str, Any]] | None = None


class CreatedTask(Result):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None


class TaskParams(RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class CancelTask(Request[TaskParams, Literal["tasks/cancel"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


class UpdateTask(Request[UpdateParams, Literal["tasks/update"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: UpdateParams


class TaskNews(BaseModel):
    model_config = ConfigDict(extra="allow")


class Holding(ClientExtension):
    """Holds tasks. `answers` is what it says to what a task asks, by the name of the question."""

    identifier = TASKS

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers = {} if answers is None else dict(answers)
        self.held: list[str] = []
        """Of each task that the client was given, its id."""
        self.news: list[dict[str, Any]] = []
        """Of each notification about a task, its parameters."""
        self._something = asyncio.Condition()

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._resolve)]

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return [NotificationBinding(method="notifications/tasks", params_type=TaskNews, handler=self._heard)]

    async def _resolve(self, created: CreatedTask, ctx: ClaimContext) -> CallToolResult:
        self.held.append(created.task_id)
        told = False

        async def look() -> Task | None:
            nonlocal told
            task = await get_task(ctx.session, created.task_id)
            if task.input_requests and not told:
                answers = {name: self.answers[name] for name in task.input_requests}
                await update_task(ctx.session, created.task_id, answers)
                told = True
            return task if task.status in ENDED else None

        task = await seen(look)
        assert task.result is not None, task
        return CallToolResult.model_validate(task.result)

    async def _heard(self, news: TaskNews) -> None:
        async with self._something:
            self.news.append(news.model_dump())
            self._something.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND), self._something:
            await self._something.wait_for(holds)


async def seen(look: Callable[[], Awaitable[Task | None]]) -> Task:
    async with asyncio.timeout(BOUND):
        while (found := await look()) is None:
            await asyncio.sleep(0.01)
        return found


async def create(client: Client, tool: str, *, meta: Any = None, **arguments: Any) -> str:
    """The id of the task that a call becomes."""
    created = await client.session.call_tool(tool, arguments, meta=meta, allow_claimed=True)
    assert isinstance(created, CreatedTask), created
    return created.task_id


async def get_task(session: ClientSession, task_id: str) -> Task:
    return await session.send_request(GetTask(params=TaskParams(task_id=task_id)), Task)


async def cancel_task(session: ClientSession, task_id: str) -> dict[str, Any]:
    ack = await session.send_request(CancelTask(params=TaskParams(task_id=task_id)), Result)
    return ack.model_dump(exclude={"meta"}, exclude_none=True)


async def update_task(session: ClientSession, task_id: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    params = UpdateParams(task_id=task_id, input_responses=dict(answers))
    ack = await session.send_request(UpdateTask(params=params), Result)
    return ack.model_dump(exclude={"meta"}, exclude_none=True)


async def task_as(session: ClientSession, task_id: str, *statuses: str) -> Task:
    """The task, once it is in one of these states."""

    async def look() -> Task | None:
        task = await get_task(session, task_id)
        return task if task.status in statuses else None

    return await seen(look)


async def ended(session: ClientSession, task_id: str) -> Task:
    return await task_as(session, task_id, *ENDED)


@asynccontextmanager
async def listening(client: Client, *task_ids: str, **others: Any) -> AsyncGenerator[asyncio.Task[Any]]:
    """A stream of news of tasks, until this is left."""
    wanted = SubscriptionFilter.model_validate({"taskIds": list(task_ids), **others})
    request = SubscriptionsListenRequest(params=SubscriptionsListenRequestParams(notifications=wanted))
    stream = asyncio.create_task(client.session.send_request(request, SubscriptionsListenResult))
    try:
        yield stream
    finally:
        stream.cancel()
        await asyncio.wait({stream})
