"""A thousand tasks that ask, on one server that dies, and one client that is told of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from tests.protocol.answers.house import House, house_of
from tests.protocol.asking import text
from tests.protocol.tasking import Holding, create, listening, update_task
from tests.protocol.wired import STATELESS

TASKS = 1000
AT_ONCE = 32
"""Requests; a client has no more connections."""


async def all_of_them(ask: Callable[[int], Awaitable[Any]]) -> list[Any]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Any:
        async with turn:
            return await ask(number)

    return await asyncio.gather(*(one(number) for number in range(TASKS)))


def client_of(house: House, holding: Holding) -> Client:
    async def never(context: Any, params: Any) -> Any:
        raise AssertionError("tasks are answered with tasks/update")

    return Client(house.url, mode=STATELESS, extensions=[holding], elicitation_callback=never)


@pytest.mark.slow
async def test_a_thousand_tasks_ask_again_after_a_kill_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with house_of(tmp_path, "sse") as house:
        async with house.life():
            async with client_of(house, Holding()) as client:
                tasks = await all_of_them(
                    lambda number: create(client, "decide_at_leisure", token=f"task {number}", kind="form")
                )
            await house.kill()
        holding = Holding()
        news: dict[str, dict[str, Any]] = {}

        async def until_all_are(status: str) -> None:
            while len(news) < TASKS or any(each["status"] != status for each in news.values()):
                await holding.until(lambda: bool(holding.news))
                news.update({each["taskId"]: each for each in holding.news})
                holding.news.clear()

        async with house.life(), client_of(house, holding) as client, listening(client, *tasks):
            await until_all_are("input_required")
            await all_of_them(
                lambda number: update_task(
                    client.session,
                    tasks[number],
                    {"question": {"action": "accept", "content": {"by": f"answer {number}"}}},
                )
            )
            await until_all_are("completed")
        for number, task in enumerate(tasks):
            result = CallToolResult.model_validate(news[task]["result"])
            assert text(result) == f"task {number}: answer {number}"
        once = {f"{verb} task {number}" for verb in ("begins", "works", "done") for number in range(TASKS)}
        assert sorted(house.lines()) == sorted(once)
