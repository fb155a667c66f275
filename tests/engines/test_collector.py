"""What the garbage collector need not look at while calls are served."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from perdure.effects import Effects
from perdure.engine import Function
from perdure.engines.embedded.collector import FEW, SELDOM
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import body, request_for, step, whole


async def add_one(number: int) -> int:
    return number + 1


async def one_step(effects: Effects, number: int) -> int:
    return await step(effects, add_one, number)


async def ten_steps(effects: Effects, number: int) -> int:
    for _ in range(10):
        number = await step(effects, add_one, number)
    return number


ONE, TEN, WHOLE = body(one_step, check=False), body(ten_steps, check=False), whole(add_one)


async def run(engine: Embedded, function: Function) -> None:
    accepted = await engine.start(request_for(function, 1))
    async for view in engine.watch(accepted.call_id):
        assert view.status in ("running", "completed")


async def test_what_was_there_before_is_spared_while_the_first_of_several_engines_serves(tmp_path: Path) -> None:
    before = gc.get_threshold()
    assert gc.get_freeze_count() < FEW
    async with Embedded(tmp_path / "one.sqlite").serve(()):
        spared = gc.get_freeze_count()
        assert spared > FEW
        async with Embedded(tmp_path / "two.sqlite").serve(()):
            pass
        assert gc.get_freeze_count() > FEW
        assert gc.get_threshold()[0] == SELDOM
    assert gc.get_freeze_count() < FEW
    assert gc.get_threshold() == before


async def test_what_the_program_itself_has_set_stays_so(tmp_path: Path) -> None:
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(1234)
    try:
        async with Embedded(tmp_path / "one.sqlite").serve(()):
            assert gc.get_threshold()[0] == 1234
        assert gc.get_freeze_count() > FEW
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.mark.parametrize("function", [ONE, TEN, WHOLE], ids=["one step", "ten steps", "whole step"])
async def test_a_call_that_has_ended_leaves_memory_without_the_collector(function: Function, tmp_path: Path) -> None:
    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve((function,)):
        await run(engine, function)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await run(engine, function)
            await asyncio.sleep(0)
            assert gc.collect() < 20
        finally:
            gc.enable()
