"""A body that leaves memory: on one thread, at one time, and without a word to anybody else."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from perdure.core.body import Body
from perdure.core.commands import RunStep
from perdure.core.events import Signalled, Started, StepReturned
from perdure.errors import Parked
from tests.core.bodies import Main, step

START = Started(100.0, 1, "3.11")
GO = Signalled("go", b"", 101.0)

said: list[str] = []


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    said.clear()
    yield
    kept.clear()


def say(what: str) -> None:
    said.append(what)


# --- bodies in every place where one can be dropped -----------------------------------------------


async def in_a_try(body: Body) -> bytes:
    try:
        return await step(body, "wait")
    finally:
        say("finally")


async def in_a_clean_up(body: Body) -> bytes:
    try:
        raise ValueError
    finally:
        try:
            await step(body, "clean up")
        finally:
            say("inner")


async def with_a_clean_up_that_asks(body: Body) -> bytes:
    try:
        return await step(body, "wait")
    finally:
        say("asks")
        try:
            await step(body, "clean up")
        except Parked:
            say("parked again")
            raise


async def that_catches_everything_once(body: Body) -> bytes:
    try:
        return await step(body, "wait")
    except BaseException as error:
        say(type(error).__name__)
        return b""


async def with_managers(body: Body) -> bytes:
    @contextmanager
    def plain() -> Generator[None]:
        try:
            yield
        finally:
            say("plain")

    @asynccontextmanager
    async def waits() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            say("async")

    with plain():
        async with waits():
            return await step(body, "wait")


async def with_tasks(body: Body) -> bytes:
    async def child(n: int) -> None:
        try:
            await step(body, "wait", n)
        finally:
            say(f"child {n}")

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(child(n))
    finally:
        say("group")
    return b""


async def with_a_task_that_has_not_begun(body: Body) -> bytes:
    async def child() -> None:
        say("begun")

    kept.append(asyncio.create_task(child()))
    kept[-1].cancel()
    await body.receive("go", bytes)
    kept.append(asyncio.create_task(child()))
    raise KeyboardInterrupt


async def with_an_open_generator(body: Body) -> bytes:
    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            say("pages")

    kept.append(pages())
    await anext(kept[-1])
    async for _ in pages():
        await step(body, "wait")
    return b""


async def in_a_lock(body: Body) -> bytes:
    lock = asyncio.Lock()

    async def waits() -> None:
        async with lock:
            say("never")

    async with lock:
        kept.append(asyncio.create_task(waits()))
        return await step(body, "wait")


async def asleep(body: Body) -> bytes:
    async with asyncio.timeout(3600):
        try:
            await asyncio.sleep(60)
        finally:
            say("awake")
    return b""


kept: list[Any] = []

PLACES: dict[Main, list[str]] = {
    in_a_try: ["finally"],
    in_a_clean_up: ["inner"],
    with_a_clean_up_that_asks: ["asks", "parked again"],
    that_catches_everything_once: ["Parked"],
    with_managers: ["async", "plain"],
    with_tasks: ["child 2", "child 1", "child 0", "group"],
    with_an_open_generator: ["pages", "pages"],
    in_a_lock: [],
    asleep: ["awake"],
}


@pytest.mark.parametrize("main", PLACES, ids=lambda main: main.__name__)
def test_plain_clean_up_runs_newest_first_and_nothing_is_asked(main: Main, caplog: pytest.LogCaptureFixture) -> None:
    body = Body(main, call_id="c1")
    body.feed(START)
    asked = list(body.pending)
    body.drop()
    assert said == PLACES[main]
    assert list(body.pending) == asked
    assert body.finish is None
    kept.clear()
    gc.collect()
    assert said == PLACES[main]
    assert caplog.records == []


def test_a_task_that_has_not_begun_never_does() -> None:
    body = Body(with_a_task_that_has_not_begun, call_id="c1")
    body.feed(START)
    with pytest.raises(KeyboardInterrupt):
        body.feed(GO)
    kept.clear()
    assert said == []


def test_a_body_can_be_dropped_before_it_began_and_after_it_ended_and_twice() -> None:
    async def main(body: Body) -> bytes:
        return b""

    Body(main, call_id="c1").drop()
    ended = Body(main, call_id="c1")
    ended.feed(START)
    ended.drop()
    ended.drop()
    waits = Body(in_a_try, call_id="c1")
    waits.feed(START)
    waits.drop()
    waits.drop()
    assert said == ["finally"]


ASKS: dict[str, Callable[[Body], Any]] = {
    "step": lambda body: step(body, "x"),
    "receive": lambda body: body.receive("go", bytes),
    "store": lambda body: body.store("s", None),
    "join": lambda body: body.join("c2", bytes),
    "patched": lambda body: body.patched("x"),
    "sleep": lambda _: asyncio.sleep(1),
    "task": lambda _: asyncio.create_task(asyncio.Event().wait()),
    "event": lambda _: asyncio.Event().wait(),
    "timer": lambda _: asyncio.get_running_loop().call_later(1, print),
}


@pytest.mark.parametrize("ask", ASKS)
def test_whatever_a_dropped_body_asks_for_parks_it_again(ask: str) -> None:
    async def main(body: Body) -> bytes:
        try:
            return await body.receive("never", bytes)
        finally:
            try:
                answer = ASKS[ask](body)
                if isinstance(answer, Awaitable):
                    await answer
                say("was heard")
            except Parked:
                say("parked")

    body = Body(main, call_id="c1")
    body.feed(START)
    body.drop()
    assert said == ["parked"]


async def swallows_at_rest(body: Body) -> bytes:
    while True:
        try:
            await asyncio.sleep(0 if said else 1)
        except BaseException:
            say("no")


async def swallows_what_it_is_refused(body: Body) -> bytes:
    while True:
        try:
            await step(body, "again")
        except BaseException:
            say("no")


async def swallows_in_a_generator(body: Body) -> bytes:
    async def stays() -> AsyncIterator[int]:
        while True:
            try:
                yield 1
            except BaseException:
                say("no")

    kept.append(stays())
    await anext(kept[-1])
    return await body.receive("never", bytes)


@pytest.mark.parametrize(
    "main", [swallows_at_rest, swallows_what_it_is_refused, swallows_in_a_generator], ids=lambda main: main.__name__
)
def test_a_body_that_will_not_leave_is_set_aside_and_logged(main: Main, caplog: pytest.LogCaptureFixture) -> None:
    body = Body(main, call_id="c1")
    body.feed(START)
    body.drop()
    kept.clear()
    [record] = caplog.records
    assert "call c1" in record.message
    assert "set aside" in record.message
    times = len(said)
    assert 0 < times < 100
    del body
    gc.collect()
    assert len(said) == times, "the collector has got it"


def test_a_body_that_will_not_leave_does_not_keep_the_process() -> None:
    script = """if True:
        import asyncio
        from perdure.core.body import Body
        from perdure.core.events import Started

        async def main(body):
            while True:
                try:
                    await asyncio.sleep(1)
                except BaseException:
                    pass

        body = Body(main, call_id="c1")
        body.feed(Started(0.0, 1, ""))
        body.drop()
        """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30, capture_output=True)


variable: ContextVar[str] = ContextVar("variable", default="unset")


def test_clean_up_runs_in_the_context_of_its_task() -> None:
    async def main(body: Body) -> bytes:
        token = variable.set("set")
        try:
            return await body.receive("never", bytes)
        finally:
            say(variable.get())
            variable.reset(token)

    body = Body(main, call_id="c1")
    body.feed(START)
    body.drop()
    assert said == ["set"]


def test_an_interrupt_while_a_body_leaves_is_raised_when_all_have_left() -> None:
    async def main(body: Body) -> bytes:
        async def interrupts() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                raise KeyboardInterrupt

        kept.append(asyncio.create_task(interrupts()))
        try:
            return await body.receive("never", bytes)
        finally:
            say("left")

    body = Body(main, call_id="c1")
    body.feed(START)
    with pytest.raises(KeyboardInterrupt):
        body.drop()
    kept.clear()
    assert said == ["left"]


# --- the collector --------------------------------------------------------------------------------


async def leaves_much_to_do(body: Body) -> bytes:
    """A body whose coroutines are in cycles, and would run a clean-up in whatever loop is there."""
    me: list[Any] = [asyncio.current_task()]
    me.append(me)

    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(3600)

    me.append(pages())
    await anext(me[-1])
    try:
        return await step(body, "wait")
    finally:
        say("finally")
        await asyncio.sleep(3600)


async def two_steps(body: Body) -> bytes:
    await step(body, "one")
    gc.collect()
    await step(body, "two")
    gc.collect()
    return b"1"


def commands_of_two_steps() -> list[list[Any]]:
    body = Body(two_steps, call_id="c2")
    commands = body.feed(START)
    seen: list[list[Any]] = []
    while body.finish is None:
        seen.append([(type(command), getattr(command, "key", None)) for command in commands])
        [ask] = commands
        assert isinstance(ask, RunStep)
        commands = body.feed(StepReturned(ask.key, ask.name, ask.digest, b"1", 1, 101.0, 101.0))
    return [*seen, commands]


def test_the_collector_never_runs_the_clean_up_of_one_body_in_another() -> None:
    alone = commands_of_two_steps()
    for _ in range(3):
        parked = Body(leaves_much_to_do, call_id="c1")
        parked.feed(START)
        parked.drop()
        del parked
    assert said == ["finally"] * 3
    assert commands_of_two_steps() == alone
    gc.collect()
    assert said == ["finally"] * 3


def test_clean_up_runs_on_the_thread_that_drops() -> None:
    where: list[int] = []

    async def main(body: Body) -> bytes:
        try:
            return await step(body, "wait")
        finally:
            where.append(threading.get_ident())

    body = Body(main, call_id="c1")
    body.feed(START)
    body.drop()
    del body
    collects = threading.Thread(target=gc.collect)
    collects.start()
    collects.join()
    assert where == [threading.get_ident()]


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "dropped"])
def test_what_is_left_of_a_body_needs_no_collector(ends: bool) -> None:
    async def main(body: Body) -> bytes:
        async with asyncio.timeout(60):
            await asyncio.gather(body.receive("go", bytes), asyncio.sleep(0))
        return b""

    gc.collect()
    gc.disable()
    try:
        body = Body(main, call_id="c1")
        body.feed(START)
        if ends:
            body.feed(GO)
        body.drop()
        gone = weakref.ref(body)
        del body
        assert gone() is None
    finally:
        gc.enable()
