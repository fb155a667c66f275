"""What calls ask, who can be asked, and the one answer that counts."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pytest

from perdure.effects import Effects
from perdure.engine import Answer, CallView, Cancel, Function, GetEntry, Query, Question, QuestionAsk, Signal
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.hints import Hint, Hints
from perdure.errors import AlreadyAnswered, CallEnded, CallNotFound, InputUnavailable, Refused
from tests.engines.functions import ANY, body, child_ask, request_for
from tests.engines.test_engine_calls import end_of, run, seen

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


def question(
    name: str = "approve",
    *,
    unable: Literal["wait", "refuse"] = "refuse",
    nobody: Literal["wait", "refuse"] = "wait",
) -> QuestionAsk:
    params = {"message": f"{name}?", "requestedSchema": {"type": "object"}}
    return QuestionAsk(Question(name, "form", f"{name}?", {"type": "object"}, None, params), unable, nobody)


async def ask(effects: Effects, name: str = "approve", **who: Any) -> Any:
    return json.loads(await effects.ask(name, "digest", question(name, **who)))


async def asking(effects: Effects, _: Any) -> Any:
    return await ask(effects)


def has_questions(view: CallView) -> bool:
    return bool(view.questions)


YES, NO = b'{"action":"accept","content":{}}', b'{"action":"decline"}'


async def test_a_question_is_shown_until_it_is_answered(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        view = await seen(engine, call, has_questions)
        assert view.questions == (question().question,)
        await engine.deliver(call, Answer("approve", YES))
        end = await end_of(engine, call)
        assert (end.status, end.result, end.questions) == ("completed", {"action": "accept", "content": {}}, ())


async def test_who_reads_in_the_journal_that_a_call_asks_finds_it_asking(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        for _ in range(20):
            call = (await engine.start(request_for(asks))).call_id
            async with asyncio.timeout(10):
                while not any(view.questions for view in (await engine.find(Query(status="waiting"))).calls):
                    await asyncio.sleep(0)
            assert (await engine.get(call)).questions == (question().question,)
            await engine.deliver(call, Answer("approve", YES))
            await end_of(engine, call)


async def test_who_looks_after_an_answer_finds_nothing_asked(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        for _ in range(5):
            call = (await engine.start(request_for(asks))).call_id
            await seen(engine, call, has_questions)
            await engine.deliver(call, Answer("approve", YES))
            assert not (await engine.get(call)).questions
            assert not (await anext(engine.watch(call))).questions
            await end_of(engine, call)


async def test_a_question_that_is_no_longer_shown_is_not_shown_again(tmp_path: Path) -> None:
    path, asks = tmp_path / "calls.sqlite", body(asking)
    engine, hints = Embedded(path), Hints(path)
    async with engine.serve([asks]):
        await hints.open(lambda hint: None)
        with closing(sqlite3.connect(path)) as connection:
            ((port,),) = connection.execute("SELECT port FROM processes").fetchall()
        for turns in range(6):
            call = (await engine.start(request_for(asks))).call_id
            await seen(engine, call, has_questions)
            hints.send([port], Hint("call", (call,)))
            for _ in range(turns):
                await asyncio.sleep(0)
            _answer_elsewhere(path, call)  # the owner has looked, and does not know yet what it saw
            if not (await engine.get(call)).questions:
                assert not (await anext(engine.watch(call))).questions
            await end_of(engine, call)
    hints.close()


def _answer_elsewhere(path: Path, call: str) -> None:
    """This event loop stands still meanwhile."""

    async def answer() -> None:
        engine = Embedded(path)
        async with engine.serve((), work=False):
            await engine.deliver(call, Answer("approve", YES))

    thread = Thread(target=asyncio.run, args=(answer(),))
    thread.start()
    thread.join()


async def test_only_the_first_answer_counts(serve: Serve) -> None:
    async def waits_on(effects: Effects, _: Any) -> Any:
        said = await ask(effects)
        await effects.receive("go", ANY.decode)
        return said

    asks = body(waits_on)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)

        async def answer(value: bytes) -> bool:
            try:
                await engine.deliver(call, Answer("approve", value))
            except AlreadyAnswered:
                return False
            return True

        won = await asyncio.gather(*(answer(value) for value in (NO, YES, YES)))
        assert won == [True, False, False]
        view = await seen(engine, call, lambda view: not view.questions)
        assert not view.is_over


async def test_an_answer_to_what_was_never_asked_is_refused_and_says_what_is(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)
        with pytest.raises(Refused, match="It asks: approve"):
            await engine.deliver(call, Answer("approv", YES))


async def test_an_answer_after_the_end_is_refused(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)
        await engine.deliver(call, Cancel())
        assert (await end_of(engine, call)).status == "cancelled"
        with pytest.raises(CallEnded):
            await engine.deliver(call, Answer("approve", YES))


async def test_names_that_were_used_get_a_number(serve: Serve) -> None:
    async def three(effects: Effects, _: Any) -> Any:
        await ask(effects)
        return await asyncio.gather(ask(effects), ask(effects, "approve-2"))

    asks = body(three)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)
        await engine.deliver(call, Answer("approve", YES))
        view = await seen(engine, call, lambda view: len(view.questions) == 2)
        assert [each.name for each in view.questions] == ["approve-2", "approve-2-2"]
        for each, value in zip(view.questions, (YES, NO), strict=True):
            await engine.deliver(call, Answer(each.name, value))
        assert (await end_of(engine, call)).result == [json.loads(YES), json.loads(NO)]


async def test_what_nobody_waits_for_any_more_is_withdrawn(serve: Serve) -> None:
    async def impatient(effects: Effects, _: Any) -> str:
        try:
            async with asyncio.timeout(0.05):
                await ask(effects)
        except TimeoutError:
            await effects.receive("go", ANY.decode)
        return "late"

    asks = body(impatient)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)
        await seen(engine, call, lambda view: not view.questions)
        with pytest.raises(AlreadyAnswered):
            await engine.deliver(call, Answer("approve", YES))


async def test_a_question_outlives_the_process_that_asked(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        call = (await engine.start(request_for(asks))).call_id
        await seen(engine, call, has_questions)
    async with serve() as engine:
        assert (await engine.get(call)).questions == (question().question,)
        await engine.deliver(call, Answer("approve", YES))
    async with serve(asks) as engine:
        assert (await end_of(engine, call)).result == json.loads(YES)


# --- who can be asked -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "asks", "unable", "nobody", "is_asked"),
    [
        ("r1", {"form"}, "refuse", "refuse", True),
        ("r1", {"url"}, "refuse", "wait", False),
        ("r1", {"url"}, "wait", "refuse", True),
        ("r1", set[str](), "refuse", "wait", False),
        (None, set[str](), "refuse", "wait", True),
        (None, set[str](), "wait", "refuse", False),
    ],
)
async def test_who_cannot_be_asked_is_not(
    serve: Serve, waiting: str | None, asks: set[str], unable: Any, nobody: Any, is_asked: bool
) -> None:
    async def wary(effects: Effects, _: Any) -> Any:
        try:
            return await ask(effects, unable=unable, nobody=nobody)
        except InputUnavailable:
            return "nobody"

    function = body(wary)
    async with serve(function) as engine:
        request = request_for(function, waiting=waiting, asks=frozenset(asks))
        call = (await engine.start(request)).call_id
        view = await seen(engine, call, lambda view: view.is_over or bool(view.questions))
        assert view.is_over is not is_asked
        if is_asked:
            await engine.deliver(call, Answer("approve", YES))
            assert (await end_of(engine, call)).result == json.loads(YES)
        else:
            assert view.result == "nobody"


async def test_a_shared_call_cannot_ask(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        request = request_for(asks, waiting="r1", asks=frozenset({"form"}), shared=True, key="k")
        end = await end_of(engine, (await engine.start(request)).call_id)
        assert end.status == "failed"
        assert "shared" in (end.error or "")


# --- children -------------------------------------------------------------------------------------


async def test_what_a_child_asks_is_shown_on_the_call_of_its_client(serve: Serve) -> None:
    async def grandchild(effects: Effects, _: Any) -> Any:
        return await ask(effects)

    async def child(effects: Effects, _: Any) -> Any:
        return await effects.child(child_ask(grand, None), ANY.decode)

    async def parent(effects: Effects, _: Any) -> Any:
        return await effects.child(child_ask(job, None), ANY.decode)

    grand, job, tool = body(grandchild, kind="job"), body(child, kind="job"), body(parent)
    async with serve(grand, job, tool) as engine:
        request = request_for(tool, waiting="r1", asks=frozenset({"form"}))
        call = (await engine.start(request)).call_id
        view = await seen(engine, call, has_questions)
        await engine.deliver(call, Answer(view.questions[0].name, YES))
        assert not (await seen(engine, call, lambda view: not view.questions or view.is_over)).questions
        assert (await end_of(engine, call)).result == json.loads(YES)


async def test_what_a_child_asked_is_withdrawn_with_it(serve: Serve) -> None:
    async def child(effects: Effects, _: Any) -> Any:
        return await ask(effects)

    async def wait(effects: Effects) -> None:
        await effects.child(child_ask(job, None), ANY.decode)

    async def parent(effects: Effects, _: Any) -> str:
        waiting = asyncio.create_task(wait(effects))
        await effects.receive("enough", ANY.decode)
        waiting.cancel()
        await effects.receive("go", ANY.decode)
        return "went on"

    job, tool = body(child, kind="job"), body(parent)
    async with serve(job, tool) as engine:
        call = (await engine.start(request_for(tool))).call_id
        await seen(engine, call, has_questions)
        await engine.deliver(call, Signal("enough", b"null"))
        assert not (await seen(engine, call, lambda view: not view.questions)).is_over


async def awaiting(effects: Effects, key: str) -> Any:
    return await effects.child(child_ask(keyed, None, key=key), ANY.decode)


async def child_of_job(effects: Effects, _: Any) -> Any:
    return await effects.child(child_ask(below, None), ANY.decode)


below, keyed = body(asking, kind="job"), body(child_of_job, kind="job")


async def test_a_question_goes_on_to_the_next_who_waits_for_the_job(serve: Serve) -> None:
    async def parent(effects: Effects, busy: Any) -> Any:
        waiting = asyncio.create_task(awaiting(effects, "k"))
        if busy:
            await ask(effects)
        return await waiting

    tool = body(parent)
    async with serve(below, keyed, tool) as engine:
        first = (await engine.start(request_for(tool))).call_id
        await seen(engine, first, has_questions)
        next_one = (await engine.start(request_for(tool, True))).call_id
        await seen(engine, next_one, has_questions)
        await engine.deliver(first, Cancel())
        end = await end_of(engine, first)
        assert (end.questions, (await engine.get(first)).questions) == ((), ())
        view = await seen(engine, next_one, lambda view: len(view.questions) == 2)
        assert [each.name for each in view.questions] == ["approve", "approve-2"]
        await engine.deliver(next_one, Answer("approve-2", YES))
        await engine.deliver(next_one, Answer("approve", NO))
        assert (await end_of(engine, next_one)).result == json.loads(YES)


async def test_a_question_outlives_a_parent_that_gives_up_and_goes_on(serve: Serve) -> None:
    async def parent(effects: Effects, is_patient: Any) -> Any:
        waiting = asyncio.create_task(awaiting(effects, "k"))
        if not is_patient:
            await effects.receive("enough", ANY.decode)
            waiting.cancel()
            return await ask(effects)
        return await waiting

    tool = body(parent)
    async with serve(below, keyed, tool) as engine:
        hasty = (await engine.start(request_for(tool, False))).call_id
        await seen(engine, hasty, has_questions)
        patient = (await engine.start(request_for(tool, True))).call_id
        await seen(engine, patient, lambda view: view.status == "waiting")
        await engine.deliver(hasty, Signal("enough", b"null"))
        await seen(engine, patient, has_questions)
        await seen(engine, hasty, lambda view: [each.name for each in view.questions] == ["approve-2"])
        with pytest.raises(AlreadyAnswered):
            await engine.deliver(hasty, Answer("approve", NO))
        await engine.deliver(patient, Answer("approve", YES))
        assert (await end_of(engine, patient)).result == json.loads(YES)


async def test_a_question_of_a_detached_job_is_its_own_when_who_waited_has_ended(serve: Serve) -> None:
    async def parent(effects: Effects, _: Any) -> Any:
        return await effects.join(await effects.detach(child_ask(below, None)), ANY.decode)

    tool = body(parent)
    async with serve(below, tool) as engine:
        call = (await engine.start(request_for(tool))).call_id
        await seen(engine, call, has_questions)
        [job] = (await engine.find(Query(tool="asking"))).calls
        await engine.deliver(call, Cancel())
        assert not (await end_of(engine, call)).questions
        view = await seen(engine, job.id, has_questions)
        await engine.deliver(job.id, Answer(view.questions[0].name, YES))
        assert (await end_of(engine, job.id)).result == json.loads(YES)


async def test_a_question_is_answered_in_the_life_after_it_went_on(serve: Serve) -> None:
    async def parent(effects: Effects, _: Any) -> Any:
        waiting = asyncio.create_task(awaiting(effects, "k"))
        await ask(effects)
        return await waiting

    tool = body(parent)
    async with serve(below, keyed, tool) as engine:
        calls: list[str] = []
        for asked in (2, 1):
            calls.append((await engine.start(request_for(tool, asked))).call_id)
            await seen(engine, calls[-1], lambda view, asked=asked: len(view.questions) == asked)
        await engine.deliver(calls[0], Cancel())
        view = await seen(engine, calls[1], lambda view: len(view.questions) == 2)
    async with serve() as engine:
        assert (await engine.get(calls[1])).questions == view.questions
        for each in view.questions:
            await engine.deliver(calls[1], Answer(each.name, YES))
    async with serve(below, keyed, tool) as engine:
        assert (await end_of(engine, calls[1])).result == json.loads(YES)


async def test_jobs_that_wait_for_each_other_show_what_they_ask_themselves(serve: Serve) -> None:
    async def one(effects: Effects, _: Any) -> Any:
        return await effects.child(child_ask(jobs["other"], None, key="other"), ANY.decode)

    async def other(effects: Effects, _: Any) -> Any:
        waiting = asyncio.create_task(one_of(effects))
        said = await ask(effects)
        waiting.cancel()
        return said

    async def one_of(effects: Effects) -> Any:
        return await effects.child(child_ask(jobs["one"], None, key="one"), ANY.decode)

    jobs = {"one": body(one, kind="job"), "other": body(other, kind="job")}
    tool = body(one, name="tool")
    async with serve(*jobs.values(), tool) as engine:
        call = (await engine.start(request_for(tool))).call_id
        await seen(engine, call, has_questions)
        await jobs_found(engine, Query(tool="one", status="waiting"))
        [job] = (await engine.find(Query(tool="other"))).calls
        await engine.deliver(call, Cancel())
        await end_of(engine, call)
        view = await seen(engine, job.id, has_questions)
        await engine.deliver(job.id, Answer(view.questions[0].name, YES))
        assert (await end_of(engine, job.id)).result == json.loads(YES)


async def test_what_was_being_asked_when_the_body_ended_is_not_shown_for_ever(serve: Serve) -> None:
    async def hasty(effects: Effects, _: Any) -> str:
        reading = asyncio.ensure_future(effects.store("things", GetEntry("", "k")))
        asking = asyncio.ensure_future(ask(effects))
        await reading
        asking.cancel()
        return "over"

    async def waits(effects: Effects, _: Any) -> str:
        said = await effects.child(child_ask(job, None), ANY.decode)
        await effects.receive("go", ANY.decode)
        return said

    job, tool = body(hasty, kind="job"), body(waits)
    async with serve(job, tool) as engine:
        call = (await engine.start(request_for(tool))).call_id
        (child,) = await jobs_found(engine, Query(tool="hasty", status="completed"))
        assert child.questions == ()
        await seen(engine, call, lambda view: not view.questions)
        with pytest.raises((AlreadyAnswered, Refused)):
            await engine.deliver(call, Answer("approve", YES))


async def jobs_found(engine: Embedded, query: Query) -> list[CallView]:
    async with asyncio.timeout(10):
        while not (found := (await engine.find(query)).calls):
            await asyncio.sleep(0.01)
    return found


# --- coming back ----------------------------------------------------------------------------------


async def test_a_request_that_resumes_a_call_gets_it_and_no_other(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        first = await engine.start(request_for(asks, caller="me", waiting="r1", asks=frozenset({"form"})))
        await seen(engine, first.call_id, has_questions)
        engine.let_go("r1", handed=True)
        again = await engine.start(request_for(asks, caller="me", waiting="r2", resumes=first.call_id))
        assert (again.call_id, again.how) == (first.call_id, "attached")
        for other in (
            request_for(asks, caller="you", waiting="r3", resumes=first.call_id),
            request_for(asks, caller="me", waiting="r4", resumes="0" * 32),
        ):
            with pytest.raises(CallNotFound):
                await engine.start(other)


async def test_a_call_that_asks_and_is_not_answered_leaves_memory_and_comes_back(serve: Serve) -> None:
    asks = body(asking)
    async with serve(asks) as engine:
        view = await run_until_asked(engine, asks)
        live = engine.worker
        assert live is not None
        live.live[view.id].park()
        async with asyncio.timeout(10):
            while view.id in live.live:
                assert (await engine.get(view.id)).questions == (question().question,)
                await asyncio.sleep(0)
        assert (await engine.get(view.id)).questions == (question().question,)
        await engine.deliver(view.id, Answer("approve", YES))
        assert (await end_of(engine, view.id)).result == json.loads(YES)


async def run_until_asked(engine: Embedded, function: Function) -> CallView:
    call = (await engine.start(request_for(function))).call_id
    return await seen(engine, call, has_questions)


async def test_other_calls_are_not_held_up_by_one_that_asks(serve: Serve) -> None:
    async def plain(effects: Effects, _: Any) -> str:
        return "done"

    asks, other = body(asking), body(plain)
    async with serve(asks, other) as engine:
        await run_until_asked(engine, asks)
        assert (await run(engine, other)).result == "done"
