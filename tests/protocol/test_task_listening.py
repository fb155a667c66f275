"""News of tasks on a stream that a client listens to."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from perdure import DurableMCP
from tests.protocol.tasking import Holding, create, ended, listening
from tests.protocol.test_tasks import MISSING_CAPABILITY, go, make


def told(holding: Holding) -> list[tuple[str, str]]:
    return [(news["taskId"], news["status"]) for news in holding.news]


async def test_who_listens_hears_what_becomes_of_a_task_in_full() -> None:
    holding, mcp = Holding(), make()
    async with Client(mcp, extensions=[holding]) as client:
        task = await create(client, "wait")
        async with listening(client, task):
            await holding.until(lambda: any(news.get("statusMessage") == "waits" for news in holding.news))
            await mcp.calls.signal(task, go, "on")
            await holding.until(lambda: (task, "completed") in told(holding))
        news: dict[str, Any] = dict(holding.news[-1])
        stamp = news.pop("_meta")
        assert stamp.keys() == {"io.modelcontextprotocol/subscriptionId"}
        got = (await ended(client.session, task)).model_dump(by_alias=True, exclude={"meta"}, exclude_none=True)
        assert news == {name: value for name, value in got.items() if name != "resultType"}


async def test_one_stream_tells_of_many_tasks_and_of_all_else() -> None:
    holding, mcp = Holding(), make()
    async with Client(mcp, extensions=[holding]) as client:
        tasks = [await create(client, "wait") for _ in range(20)]
        async with listening(client, *tasks, toolsListChanged=True):
            await holding.until(lambda: {task for task, _ in told(holding)} == set(tasks))
            for task in tasks:
                await mcp.calls.signal(task, go, "on")
            await holding.until(lambda: {task for task, status in told(holding) if status == "completed"} == set(tasks))


async def test_what_has_ended_is_told_at_once() -> None:
    holding = Holding()
    async with Client(make(), extensions=[holding]) as client:
        task = await create(client, "whole")
        await ended(client.session, task)
        async with listening(client, task):
            await holding.until(lambda: told(holding) == [(task, "completed")])


async def test_of_what_is_not_found_nothing_is_told() -> None:
    holding = Holding()
    async with Client(make(), extensions=[holding]) as client:
        task = await create(client, "whole")
        async with listening(client, "0" * 32, task, task):
            await holding.until(lambda: (task, "completed") in told(holding))
            assert {each for each, _ in told(holding)} == {task}


async def test_only_a_client_that_takes_tasks_may_listen_to_them() -> None:
    async with Client(make()) as client, listening(client, "0" * 32) as stream:
        with pytest.raises(MCPError) as refused:
            await stream
        assert refused.value.code == MISSING_CAPABILITY


@pytest.mark.parametrize("wrong", ["text", [1], {"a": 1}])
async def test_ids_that_are_none_are_refused(wrong: Any) -> None:
    async with Client(make(), extensions=[Holding()]) as client, listening(client, taskIds=wrong) as stream:
        with pytest.raises(MCPError) as refused:
            await stream
        assert refused.value.code == INVALID_PARAMS


async def test_as_many_clients_may_listen_at_once_as_the_server_was_told() -> None:
    mcp = DurableMCP[Any]("listens", engine="memory:", max_listens=1, log_level="CRITICAL")

    @mcp.tool(task="required")
    async def always() -> str:
        return "at once"

    holding, late = Holding(), Holding()
    async with Client(mcp, extensions=[holding]) as first, Client(mcp, extensions=[late]) as second:
        task = await create(first, "always")
        async with listening(first, task):
            await holding.until(lambda: told(holding) != [])
            async with listening(second, task) as refused:
                with pytest.raises(MCPError, match="limit"):
                    await refused
