"""Tasks as clients of 2025-11-25 ask for them, by raw requests on the official transport."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from mcp import Client
from mcp.client.extension import ClientExtension, NotificationBinding
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CallToolResult,
    CancelTaskRequest,
    CancelTaskRequestParams,
    CancelTaskResult,
    CreateTaskResult,
    GetTaskPayloadRequest,
    GetTaskPayloadRequestParams,
    GetTaskRequest,
    GetTaskRequestParams,
    GetTaskResult,
    ListTasksRequest,
    ListTasksResult,
    PaginatedRequestParams,
    TaskMetadata,
    TaskStatusNotificationParams,
)

from perdure import DurableContext, DurableMCP
from perdure.engine import MACHINE, ListEntries, SetEntry
from perdure.protocol.legacy_tasks import ASKED, BY_CLIENT, CANCELLED
from tests.protocol.asking import BOUND, asked, calls_of, status_of, text, until
from tests.protocol.test_tasks import go, make

RELATED = "io.modelcontextprotocol/related-task"


def client_of(mcp: DurableMCP[Any], **options: Any) -> Client:
    return Client(mcp, mode="legacy", **options)


async def create(client: Client, tool: str, **arguments: Any) -> str:
    # The client's own verb takes the shape of a task for a mistake, whatever it asked for.
    dispatcher = client.session._dispatcher  # pyright: ignore[reportPrivateUsage]  raw, on the official transport
    params = CallToolRequestParams(name=tool, arguments=arguments, task=TaskMetadata(ttl=60_000))
    raw = await dispatcher.send_raw_request("tools/call", params.model_dump(by_alias=True, exclude_none=True))
    created = CreateTaskResult.model_validate(raw, by_name=False)
    assert created.task.status == "working"
    return created.task.task_id


async def get(client: Client, task: str) -> GetTaskResult:
    request = GetTaskRequest(params=GetTaskRequestParams(task_id=task))
    return await client.session.send_request(request, GetTaskResult)


async def result(client: Client, task: str) -> CallToolResult:
    request = GetTaskPayloadRequest(params=GetTaskPayloadRequestParams(task_id=task))
    return await client.session.send_request(request, CallToolResult)


async def cancel(client: Client, task: str) -> CancelTaskResult:
    request = CancelTaskRequest(params=CancelTaskRequestParams(task_id=task))
    return await client.session.send_request(request, CancelTaskResult)


async def listed(client: Client, cursor: str | None = None) -> ListTasksResult:
    request = ListTasksRequest(params=PaginatedRequestParams(cursor=cursor))
    return await client.session.send_request(request, ListTasksResult)


async def status(client: Client, task: str, wanted: str) -> None:
    async def is_so() -> bool:
        return (await get(client, task)).status == wanted

    await until(is_so)


# --- what clients are told ------------------------------------------------------------------------


async def test_the_server_says_that_it_has_tasks_and_of_each_tool_whether_it_may_be_one() -> None:
    async with client_of(make()) as client:
        tasks = client.server_capabilities.tasks
        assert tasks is not None
        assert tasks.model_dump(exclude_none=True) == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        tools = (await client.list_tools()).tools
        support = {tool.name: tool.execution and tool.execution.task_support for tool in tools}
        assert (support["wait"], support["always"], support["never"]) == ("optional", "required", None)


async def test_clients_of_the_stateless_era_are_told_nothing_of_it() -> None:
    async with Client(make()) as client:
        assert client.server_capabilities.tasks is None
        assert all(tool.execution is None for tool in (await client.list_tools()).tools)


# --- the life of a task ---------------------------------------------------------------------------


async def test_a_request_for_a_task_gets_one_at_once_and_its_result_is_waited_for() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        task = await create(client, "wait")
        assert (await get(client, task)).ttl is None
        async with asked(result(client, task)) as waiting:
            await mcp.calls.signal(task, go, "on")
            done = await waiting
        assert text(done) == "on"
        assert (done.meta or {})[RELATED] == {"taskId": task}
        assert (await get(client, task)).status == "completed"
        assert text(await result(client, task)) == "on"


async def test_without_asking_for_a_task_a_client_waits() -> None:
    async with client_of(make()) as client:
        assert (await client.call_tool("whole")).structured_content == {"number": 3}


async def test_the_result_of_a_task_is_what_a_waiting_client_would_have_got() -> None:
    async with client_of(make()) as client:
        held = await result(client, await create(client, "whole"))
        waited = await client.call_tool("whole")
        assert (held.content, held.structured_content) == (waited.content, waited.structured_content)


async def test_a_tool_that_refuses_fails_its_task_and_gives_its_result() -> None:
    async with client_of(make()) as client:
        task = await create(client, "refuses")
        refused = await result(client, task)
        assert (refused.is_error, text(refused)) == (True, "Error executing tool refuses: not today")
        assert (await get(client, task)).status == "failed"


async def test_an_error_of_the_protocol_is_the_result_of_its_task() -> None:
    async with client_of(make()) as client:
        task = await create(client, "breaks_off")
        with pytest.raises(MCPError) as broken:
            await result(client, task)
        assert (broken.value.code, broken.value.message) == (-32042, "of the protocol")
        assert (await get(client, task)).status == "failed"


async def test_who_waits_for_the_result_of_what_is_stuck_is_told_so() -> None:
    async with client_of(make()) as client:
        task = await create(client, "spins")
        with pytest.raises(MCPError, match="is stuck"):
            await result(client, task)
        assert (await get(client, task)).status == "working"


@pytest.mark.parametrize("tool", ["never", "ordinary"])
async def test_what_cannot_be_a_task_is_refused_to_whoever_asks_for_one(tool: str) -> None:
    mcp = make()

    @mcp.tool(durable=False)
    def ordinary() -> str:
        raise AssertionError("it must not run")

    async with client_of(mcp) as client:
        with pytest.raises(MCPError) as refused:
            await create(client, tool)
        assert refused.value.code == METHOD_NOT_FOUND
        assert await calls_of(mcp) == []


async def test_what_must_be_a_task_is_refused_to_whoever_does_not_ask_for_one() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("always")
        assert refused.value.code == METHOD_NOT_FOUND
        assert text(await result(client, await create(client, "always"))) == "always a task"


# --- cancelling -----------------------------------------------------------------------------------


async def test_a_cancelled_task_is_so_when_the_cancel_returns_and_for_ever() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        task = await create(client, "stubborn")
        await status(client, task, "working")
        assert (await cancel(client, task)).status == "cancelled"
        assert (await get(client, task)).status == "cancelled"
        await mcp.calls.signal(task, go, "it went on all the same")
        assert await mcp.calls.result(task) == "it went on all the same"
        assert (await get(client, task)).status == "cancelled"
        assert (await result(client, task)).is_error
        assert [each.status for each in (await listed(client)).tasks] == ["cancelled"]


async def test_a_cancel_whose_server_died_over_it_counts_if_the_call_was_asked_before_its_end() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        asked_to, ended = await create(client, "stubborn"), await create(client, "stubborn")
        for task in (asked_to, ended):
            await status(client, task, "working")
            await mcp.engine.store(CANCELLED, SetEntry(MACHINE, task, ASKED))
            assert (await get(client, task)).status == "working"
        await mcp.calls.cancel(asked_to, reason=BY_CLIENT)
        for task in (asked_to, ended):
            await mcp.calls.signal(task, go, "it went on all the same")
            await mcp.calls.result(task)
        assert (await get(client, asked_to)).status == "cancelled"
        assert (await result(client, asked_to)).is_error
        assert (await get(client, ended)).status == "completed"
        with pytest.raises(MCPError, match="it is completed"):
            await cancel(client, ended)


async def test_what_is_remembered_of_cancelled_tasks_does_not_pile_up() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        for _ in range(100):
            task = await create(client, "wait")
            await cancel(client, task)
            await status_of(mcp, task, "cancelled")
        kept = (await mcp.engine.store(CANCELLED, ListEntries(MACHINE, limit=1000))).entries
        assert len(kept) < 50


async def test_what_has_ended_cannot_be_cancelled() -> None:
    async with client_of(make()) as client:
        ended, cancelled = await create(client, "whole"), await create(client, "wait")
        await result(client, ended)
        await cancel(client, cancelled)
        for task in (ended, cancelled):
            with pytest.raises(MCPError) as refused:
                await cancel(client, task)
            assert refused.value.code == INVALID_PARAMS


async def test_who_waits_for_a_result_hears_of_the_cancel() -> None:
    mcp = make()
    async with client_of(mcp) as client:
        task = await create(client, "wait")
        async with asked(result(client, task)) as waiting:
            await cancel(client, task)
            done = await waiting
        assert (done.is_error, text(done)) == (True, "The call was cancelled: by its client.")


# --- finding tasks --------------------------------------------------------------------------------


async def test_a_client_finds_all_its_tasks_page_by_page() -> None:
    async with client_of(make()) as client:
        tasks = {await create(client, "whole") for _ in range(120)}
        first = await listed(client)
        second = await listed(client, first.next_cursor)
        third = await listed(client, second.next_cursor)
        assert third.next_cursor is None
        pages = [{each.task_id for each in page.tasks} for page in (first, second, third)]
        assert [len(page) for page in pages] == [50, 50, 20]
        assert {task for page in pages for task in page} == tasks


async def test_a_cursor_that_never_was_is_refused() -> None:
    async with client_of(make()) as client:
        with pytest.raises(MCPError) as refused:
            await listed(client, "no cursor")
        assert refused.value.code == INVALID_PARAMS


async def test_jobs_are_not_listed() -> None:
    mcp = make()

    @mcp.job()
    async def chore(ctx: DurableContext) -> None: ...

    async with client_of(mcp) as client:
        await chore.start()
        assert (await listed(client)).tasks == []


@pytest.mark.parametrize("ask", [get, result, cancel])
async def test_an_id_that_never_was_is_not_found(ask: Any) -> None:
    async with client_of(make()) as client:
        with pytest.raises(MCPError) as refused:
            await ask(client, "0" * 32)
        assert (refused.value.code, refused.value.message) == (INVALID_PARAMS, "Task not found")


# --- notifications --------------------------------------------------------------------------------


class Hearing(ClientExtension):
    identifier = "com.example/hearing"

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._news = asyncio.Condition()

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        method = "notifications/tasks/status"
        return [NotificationBinding(method=method, params_type=TaskStatusNotificationParams, handler=self._hear)]

    async def _hear(self, news: TaskStatusNotificationParams) -> None:
        async with self._news:
            self.told.append((news.task_id, news.status))
            self._news.notify_all()

    async def until(self, *told: tuple[str, str]) -> None:
        async with asyncio.timeout(BOUND), self._news:
            await self._news.wait_for(lambda: set(told) <= set(self.told))


async def test_who_holds_a_task_is_told_what_becomes_of_it() -> None:
    hearing, mcp = Hearing(), make()
    async with client_of(mcp, extensions=[hearing]) as client:
        ended, cancelled = await create(client, "wait"), await create(client, "stubborn")
        await mcp.calls.signal(ended, go, "on")
        await cancel(client, cancelled)
        await hearing.until((ended, "completed"), (cancelled, "cancelled"))
        await mcp.calls.signal(cancelled, go, "on")
        await mcp.calls.result(cancelled)
        last = await create(client, "whole")
        await hearing.until((last, "completed"))
        assert [status for task, status in hearing.told if task == cancelled] == ["cancelled"]
