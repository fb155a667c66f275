"""A trial shows what production does only as long as both run on the same code."""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import perdure.testing
from perdure.engines.embedded.live import LiveCall
from perdure.engines.embedded.runner import BodyCall
from perdure.engines.embedded.steps import StepRun
from perdure.engines.embedded.worker import Worker
from perdure.testing import trial
from tests.testing.shop import mcp, order

OWN = (Worker, LiveCall, StepRun)
WHAT_WORKERS_DO = {"begin", "begin_again", "claim", "drain", "feed", "park", "take"}


def classes() -> Iterator[type[Any]]:
    for found in pkgutil.walk_packages(perdure.testing.__path__, "perdure.testing."):
        module = import_module(found.name)
        yield from (each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == found.name)


def test_the_testing_kit_defines_no_worker_of_its_own() -> None:
    found = list(classes())
    assert len(found) > 5
    for each in found:
        assert not issubclass(each, OWN), each
        assert not any(word in each.__name__ for word in ("Worker", "Runner", "BodyCall")), each
        assert not vars(each).keys() & WHAT_WORKERS_DO, each


async def test_calls_of_a_trial_run_on_the_worker_and_runner_of_production() -> None:
    async with trial(mcp) as t:
        began, proceed = asyncio.Event(), asyncio.Event()

        async def take(item: str) -> str:
            began.set()
            await proceed.wait()
            return item

        t.stub(order, take)
        call = await t.start("deliver", {"item": "tea", "days": 0})
        await began.wait()
        worker: Any = getattr(mcp.engine, "worker", None)
        assert type(worker) is Worker
        assert type(worker.live[call.id]) is BodyCall
        proceed.set()
        await t.settle()
