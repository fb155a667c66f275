"""A call that goes on with a new journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.core.events import Started
from perdure.effects import Effects, running_frame
from perdure.engine import Function, Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from perdure.errors import Continued
from tests.engines.functions import ANY, body, child_ask, request_for, step
from tests.engines.test_engine_calls import end_of, run, seen
from tests.engines.test_questions import ask, has_questions

Serve = Callable[..., AbstractAsyncContextManager[Embedded]]


@pytest.fixture(params=["memory", "file"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Serve functions on one engine, as often as wanted."""
    engine = Embedded("memory:" if request.param == "memory" else tmp_path / "calls.sqlite")

    @asynccontextmanager
    async def serving(*functions: Function) -> AsyncGenerator[Embedded]:
        async with engine.serve(functions):
            yield engine

    return serving


def go_on(argument: Any) -> Continued:
    return Continued(json.dumps(argument).encode())


async def test_it_begins_anew_under_its_own_id(serve: Serve) -> None:
    keys: list[str] = []

    async def note(n: int) -> int:
        frame = running_frame.get()
        assert frame is not None
        keys.append(frame.idempotency_key)
        return n + 1

    async def rounds(effects: Effects, n: int) -> Any:
        after = await step(effects, note, n)
        if after < 3:
            raise go_on(after)
        return [effects.call_id, after]

    function = body(rounds)
    async with serve(function) as engine:
        view = await run(engine, function, 0, key="the one")
        assert view.result == [view.id, 3]
        assert len(set(keys)) == 3
        events = await engine.journal(view.id)
        assert [type(event).__name__ for event in events] == ["Started", "StepReturned", "Completed"]
        assert isinstance(events[0], Started)
        assert json.loads(await engine.arguments(view.id)) == 2
        again = await engine.start(request_for(function, 0, key="the one"))
        assert (again.call_id, again.how) == (view.id, "attached")


async def test_signals_that_it_did_not_receive_stay_in_their_order(serve: Serve) -> None:
    async def hears(effects: Effects, heard: list[Any]) -> Any:
        if not heard:
            await effects.receive("go", ANY.decode)
        heard.append(await effects.receive("word", ANY.decode))
        if len(heard) < 4:
            raise go_on(heard)
        return heard

    function = body(hears)
    signals = (SignalSpec("go", False, {}), SignalSpec("word", False, {}))
    async with serve(function) as engine:
        call = (await engine.start(request_for(function, [], signals=signals))).call_id
        for n in range(3):
            await engine.deliver(call, Signal("word", str(n).encode()))
        await engine.deliver(call, Signal("go", b"1"))
        await engine.deliver(call, Signal("word", b"3"))
        assert (await end_of(engine, call)).result == [0, 1, 2, 3]


async def test_children_of_the_old_journal_are_cancelled_and_their_questions_withdrawn(serve: Serve) -> None:
    async def child(effects: Effects, _: Any) -> Any:
        return await ask(effects)

    async def parent(effects: Effects, n: int) -> Any:
        waiting = asyncio.ensure_future(effects.child(child_ask(job, n), ANY.decode))
        await effects.receive("go", ANY.decode)
        if n == 0:
            raise go_on(1)
        waiting.cancel()
        return "done"

    job, tool = body(child, kind="job"), body(parent)
    async with serve(job, tool) as engine:
        request = request_for(tool, 0, waiting="r1", asks=frozenset({"form"}), signals=(SignalSpec("go", False, {}),))
        call = (await engine.start(request)).call_id
        first = (await seen(engine, call, has_questions)).questions
        await engine.deliver(call, Signal("go", b"1"))
        second = (await seen(engine, call, lambda view: has_questions(view) and view.questions != first)).questions
        assert [each.name for each in (*first, *second)] == ["approve", "approve-2"]
        await engine.deliver(call, Signal("go", b"1"))
        assert (await end_of(engine, call)).result == "done"


async def test_clean_up_runs_before_it_goes_on(serve: Serve) -> None:
    cleaned: list[int] = []

    async def clean(n: int) -> None:
        cleaned.append(n)

    async def tidy(effects: Effects, n: int) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(1000))
                if n < 2:
                    raise go_on(n + 1)
                raise ValueError
        except* ValueError:
            pass
        finally:
            await step(effects, clean, n)
        return n

    function = body(tidy)
    async with serve(function) as engine:
        assert (await run(engine, function, 0)).result == 2
    assert cleaned == [0, 1, 2]


async def test_it_goes_on_in_the_next_process(serve: Serve) -> None:
    async def rounds(effects: Effects, n: int) -> int:
        if n == 0:
            raise go_on(1)
        await effects.receive("go", ANY.decode)
        return n

    function = body(rounds)
    async with serve(function) as engine:
        request = request_for(function, 0, signals=(SignalSpec("go", False, {}),))
        call = (await engine.start(request)).call_id
        await seen(engine, call, lambda view: view.status == "waiting")
        assert json.loads(await engine.arguments(call)) == 1
    async with serve(function) as engine:
        await engine.deliver(call, Signal("go", b"1"))
        assert (await end_of(engine, call)).result == 1


async def test_arguments_that_are_too_large_make_it_stuck_and_nothing_is_lost(tmp_path: Path) -> None:
    async def grows(effects: Effects, text: str) -> int:
        if not text:
            raise go_on("x" * 5000)
        return len(text)

    function = body(grows)
    async with Embedded(tmp_path / "calls.sqlite", payload_limit=4000).serve([function]):
        pass
    engine = Embedded(tmp_path / "calls.sqlite", payload_limit=4000)
    async with engine.serve([function]):
        view = await run(engine, function, "")
        assert view.status == "stuck"
    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve([function]):
        await engine.retry(view.id)
        assert (await end_of(engine, view.id)).result == 5000
