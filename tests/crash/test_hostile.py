"""Bodies and steps that do what they should not: the server and the other calls go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure.core.codec import digest
from perdure.core.commands import Work
from perdure.core.retry import ONCE
from perdure.effects import Effects
from perdure.engine import Function, Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from perdure.errors import Diverged, NotRecordable, PayloadTooLarge, StepFailed
from tests.crash.test_windows import end_of, until_waiting
from tests.engines.functions import ANY, body, child_ask, request_for, step, whole

ROOT = Path(__file__).parents[2]

GO = {"signals": (SignalSpec("go", False, {}),)}


async def adds(effects: Effects, n: int) -> int:
    return await step(effects, lambda: n + 1, name="add")


async def test_others_go_on_after_a_body_that_blocks() -> None:
    async def blocks(effects: Effects, _: None) -> str:
        time.sleep(0.5)
        return "done"

    blocking, other = body(blocks, check=False), body(adds)
    engine = Embedded("memory:")
    async with engine.serve([blocking, other]):
        started = await asyncio.gather(*(engine.start(request_for(each, 1)) for each in (other, blocking, other)))
        assert [(await end_of(engine, each.call_id)).result for each in started] == [2, "done", 2]


async def test_a_body_that_swallows_every_cancel_is_left_when_its_engine_is() -> None:
    async def stays(effects: Effects, _: None) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await effects.receive("go", ANY.decode)

    swallowing, other = body(stays), body(adds)
    engine = Embedded("memory:")
    async with engine.serve([swallowing, other]):
        accepted = await engine.start(request_for(swallowing))
        await until_waiting(engine, accepted.call_id)
        await engine.crash()
        assert (await end_of(engine, (await engine.start(request_for(other, 1))).call_id)).result == 2
    async with engine.serve([swallowing, other]):
        assert (await engine.get(accepted.call_id)).status in ("running", "waiting")


async def test_sys_exit_in_a_body_fails_its_call_alone() -> None:
    async def leaves(effects: Effects, _: None) -> None:
        sys.exit(3)

    function, other = body(leaves), body(adds)
    engine = Embedded("memory:")
    async with engine.serve([function, other]):
        view = await end_of(engine, (await engine.start(request_for(function))).call_id)
        assert (view.status, view.error) == ("failed", "SystemExit: 3")
        assert (await end_of(engine, (await engine.start(request_for(other, 1))).call_id)).result == 2


async def test_a_value_that_cannot_be_recorded_fails_its_step_and_is_no_reason_to_try_again() -> None:
    made: list[object] = []

    def opens() -> object:
        made.append(object())
        return made[-1]

    async def asks(effects: Effects, _: None) -> str:
        try:
            await step(effects, opens)
        except (NotRecordable, StepFailed) as error:
            return type(error).__name__
        return ""

    function = body(asks)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        view = await end_of(engine, (await engine.start(request_for(function))).call_id)
        assert (view.result, len(made)) == ("NotRecordable", 1)


# --- payloads over the limit ----------------------------------------------------------------------

LIMIT = 10_000
HUGE = "x" * (LIMIT + 1)


async def from_step(effects: Effects, _: None) -> str:
    try:
        await step(effects, lambda: HUGE, name="make")
    except PayloadTooLarge as error:
        return type(error).__name__
    return ""


async def as_outcome(effects: Effects, _: None) -> str:
    return HUGE


async def as_error(effects: Effects, _: None) -> str:
    raise ValueError(HUGE)


async def step_error(effects: Effects, _: None) -> str:
    def fails() -> None:
        raise ValueError(HUGE)

    try:
        await step(effects, fails)
    except Exception as error:
        return type(error).__name__
    return ""


async def any_job(effects: Effects, _: Any) -> None:
    return None


async def as_argument(effects: Effects, _: None) -> str:
    try:
        await effects.child(child_ask(JOB, HUGE), ANY.decode)
    except PayloadTooLarge as error:
        return type(error).__name__
    return ""


JOB = body(any_job, kind="job")


@pytest.mark.parametrize("main", [from_step, as_argument, step_error])
async def test_a_payload_over_the_limit_raises_in_the_body(main: Any) -> None:
    function = body(main)
    engine = Embedded("memory:", payload_limit=LIMIT)
    async with engine.serve([function, JOB]):
        view = await end_of(engine, (await engine.start(request_for(function))).call_id)
        assert (view.status, view.result) == ("completed", "PayloadTooLarge")


@pytest.mark.parametrize("main", [as_outcome, as_error])
async def test_an_outcome_over_the_limit_fails_its_call(main: Any) -> None:
    function = body(main)
    engine = Embedded("memory:", payload_limit=LIMIT)
    async with engine.serve([function]):
        view = await end_of(engine, (await engine.start(request_for(function))).call_id)
        assert view.status == "failed"
        assert (view.error or "").startswith("PayloadTooLarge")


async def test_arguments_and_signals_over_the_limit_are_refused_before_anything_is_made_of_them() -> None:
    async def hears(effects: Effects, _: Any) -> str:
        return await effects.receive("go", ANY.decode)

    function = body(hears)
    engine = Embedded("memory:", payload_limit=LIMIT)
    async with engine.serve([function]):
        with pytest.raises(PayloadTooLarge):
            await engine.start(request_for(function, HUGE))
        accepted = await engine.start(request_for(function, **GO))
        with pytest.raises(PayloadTooLarge):
            await engine.deliver(accepted.call_id, Signal("go", HUGE.encode()))
        await engine.deliver(accepted.call_id, Signal("go", b'"small"'))
        assert (await end_of(engine, accepted.call_id)).result == "small"


# --- changed code ---------------------------------------------------------------------------------


def asking(first: str) -> Function:
    """One function with a first step of this name."""

    async def changing(effects: Effects, _: None) -> list[Any]:
        made = await step(effects, lambda: first, name=first)
        return [made, await effects.receive("go", ANY.decode)]

    return body(changing)


async def test_a_changed_body_is_stuck_with_both_sides_until_its_code_is_back(tmp_path: Path) -> None:
    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve([asking("old")]):
        accepted = await engine.start(request_for(asking("old"), **GO))
        await until_waiting(engine, accepted.call_id)
    async with engine.serve([asking("new")]):
        view = await end_of(engine, accepted.call_id)
        assert view.status == "stuck"
        assert "'old'" in (view.error or "")
        assert "'new'" in (view.error or "")
        await engine.deliver(accepted.call_id, Signal("go", b'"went"'))  # nothing is lost meanwhile
    async with engine.serve([asking("old")]):  # a newly started process tries once
        async with asyncio.timeout(10):
            while (view := await engine.get(accepted.call_id)).status != "completed":
                await asyncio.sleep(0.005)
        assert view.result == ["old", "went"]


async def test_patched_lets_calls_of_old_code_and_new_ones_live_together(tmp_path: Path) -> None:
    def versioned(is_new: bool) -> Function:
        async def growing(effects: Effects, _: None) -> list[Any]:
            said = [await step(effects, lambda: "first", name="first")]
            if is_new and effects.patched("more"):
                said.append(await step(effects, lambda: "more", name="more"))
            await effects.receive("go", ANY.decode)
            return said

        return body(growing)

    engine = Embedded(tmp_path / "calls.sqlite")
    async with engine.serve([versioned(False)]):
        old = await engine.start(request_for(versioned(False), **GO))
        await until_waiting(engine, old.call_id)
        await engine.deliver(old.call_id, Signal("go", b"null"))
        later = await engine.start(request_for(versioned(False), 2, **GO))
        await until_waiting(engine, later.call_id)
    async with engine.serve([versioned(True)]):
        new = await engine.start(request_for(versioned(True), **GO))
        await until_waiting(engine, new.call_id)
    async with engine.serve([versioned(True)]):
        await engine.deliver(new.call_id, Signal("go", b"null"))
        assert (await end_of(engine, new.call_id)).result == ["first", "more"]
        await engine.deliver(later.call_id, Signal("go", b"null"))
        assert (await end_of(engine, later.call_id)).status == "completed"


async def test_a_step_that_would_return_something_else_now_does_not_matter() -> None:
    said = ["then"]

    async def remembers(effects: Effects, _: None) -> list[Any]:
        first = await step(effects, lambda: said[-1], name="say")
        return [first, await effects.receive("go", ANY.decode)]

    function = body(remembers)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, **GO))
        await until_waiting(engine, accepted.call_id)
        said.append("now")
        await engine.crash()
        await engine.deliver(accepted.call_id, Signal("go", b"1"))
        assert (await end_of(engine, accepted.call_id)).result == ["then", 1]


async def test_what_is_recorded_and_cannot_be_read_any_more_makes_a_call_stuck_and_loses_nothing() -> None:
    fits = False

    def decode(recorded: bytes) -> Any:
        if not fits:
            raise Diverged("a number", "a string")
        return ANY.decode(recorded)

    ran: list[int] = []

    async def reads(effects: Effects, _: None) -> Any:
        work = Work(lambda: ran.append(1) or len(ran), ANY.encode, ONCE)
        return await effects.step("count", digest((), {}), work, decode)

    function = body(reads)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function))
        assert (await end_of(engine, accepted.call_id)).status == "stuck"
        fits = True
        await engine.retry(accepted.call_id)
        async with asyncio.timeout(10):
            while (view := await engine.get(accepted.call_id)).status != "completed":
                await asyncio.sleep(0)
        assert (view.result, ran) == (1, [1])


# --- a process that dies of a step ----------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_step_that_kills_its_process_is_stuck_after_five_lives_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.fatal_actor", str(tmp_path / "calls.sqlite")]
    ends: list[int] = []
    said = ""
    while not said:
        life = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        ends.append(life.returncode)
        said = life.stdout
        assert len(ends) <= 6, life.stderr
    assert ends == [-11] * 5 + [0]
    assert "its process died 5 times while crash ran" in said
    assert "perdure retry" in said


async def test_a_whole_step_that_blocks_its_thread_keeps_nobody_else_waiting() -> None:
    def blocks(_: None) -> str:
        time.sleep(0.3)
        return "done"

    blocking, other = whole(blocks, threaded=True), body(adds)
    engine = Embedded("memory:")
    async with engine.serve([blocking, other]):
        slow = await engine.start(request_for(blocking))
        assert (await end_of(engine, (await engine.start(request_for(other, 1))).call_id)).result == 2
        assert not (await engine.get(slow.call_id)).is_over
        assert (await end_of(engine, slow.call_id)).result == "done"
