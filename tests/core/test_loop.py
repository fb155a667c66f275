"""The loop that a body runs in: what it refuses, what it bounds, what it keeps apart."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

import perdure
from perdure.core import audit
from perdure.core.body import Body
from perdure.core.codec import decode_error, error_message, error_type
from perdure.core.commands import Complete, Fail, RunStep
from perdure.core.events import Fed, Resumed, Signalled, Started, StepReturned
from perdure.errors import EffectOutsideStep, Spinning
from tests.core.bodies import Main, step

START = Started(100.0, 1, "3.11")
GO = Signalled("go", b"", 101.0)


class Bodies:
    """Those of one test, which leave memory at its end."""

    def __init__(self) -> None:
        self._made: list[Body] = []

    def feed(self, main: Main, *events: Fed) -> Body:
        body = Body(main, call_id="c1")
        self._made.append(body)
        for event in events:
            body.feed(event)
        return body

    def drop(self) -> None:
        for body in self._made:
            body.drop()


@pytest.fixture
def bodies() -> Iterator[Bodies]:
    made = Bodies()
    yield made
    made.drop()


def error_of(body: Body) -> Exception:
    assert isinstance(body.finish, Fail)
    return decode_error(body.finish.error)


# --- I/O ------------------------------------------------------------------------------------------

OnLoop = Callable[[asyncio.AbstractEventLoop], Any]


async def in_a_thread(_: asyncio.AbstractEventLoop) -> None:
    await asyncio.to_thread(print)


async def connects(_: asyncio.AbstractEventLoop) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def serves(_: asyncio.AbstractEventLoop) -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def runs_a_program(_: asyncio.AbstractEventLoop) -> None:
    await asyncio.create_subprocess_exec("true")


async def runs_a_shell(_: asyncio.AbstractEventLoop) -> None:
    await asyncio.create_subprocess_shell("true")


async def connects_with_anyio(_: asyncio.AbstractEventLoop) -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def in_a_thread_of_anyio(_: asyncio.AbstractEventLoop) -> None:
    await anyio.to_thread.run_sync(print)


async def reads_with_anyio(_: asyncio.AbstractEventLoop) -> None:
    await anyio.Path(__file__).read_text()


IO: list[OnLoop] = [
    in_a_thread,
    in_a_thread_of_anyio,
    reads_with_anyio,
    connects,
    serves,
    runs_a_program,
    runs_a_shell,
    connects_with_anyio,
    lambda loop: loop.getaddrinfo("localhost", 80),
    lambda loop: loop.getnameinfo(("127.0.0.1", 80)),
    lambda loop: loop.add_reader(0, print),
    lambda loop: loop.remove_writer(0),
    lambda loop: loop.add_signal_handler(signal.SIGUSR1, print),
    lambda loop: loop.call_soon_threadsafe(print),
    lambda loop: loop.run_in_executor(None, print),
    lambda loop: loop.create_datagram_endpoint(asyncio.DatagramProtocol),
    lambda loop: loop.run_forever(),
    lambda loop: loop.stop(),
]


@pytest.mark.parametrize("do", IO, ids=lambda do: getattr(do, "__name__", "") + str(do.__code__.co_names))
def test_the_loop_refuses_io_and_names_the_line(bodies: Bodies, do: OnLoop) -> None:
    async def main(body: Body) -> bytes:
        what = do(asyncio.get_running_loop())
        if isinstance(what, Awaitable):
            await what
        return b""

    error = error_of(bodies.feed(main, START))
    if isinstance(error, ExceptionGroup):
        [error] = cast("ExceptionGroup[Exception]", error).exceptions
    assert isinstance(error, EffectOutsideStep)
    assert error.call == "c1"
    assert error.what.startswith(("loop.", "a thread"))
    assert Path(error.where.rpartition(":")[0]) == Path(__file__)


DOES_IO_IN_A_TASK = """
import anyio, asyncio, httpx
from perdure.core.body import Body
from perdure.core.codec import decode_error
from perdure.core.events import Started

async def gets():
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get("http://127.0.0.1:9/")

async def main(body):
    TASK
    return b""

body = Body(main, call_id="c1")
body.feed(Started(100.0, 1, "3.11"))
error = decode_error(body.finish.error)
while isinstance(error, ExceptionGroup):
    [error] = error.exceptions
print(type(error).__name__, error.where)
body.drop()
"""


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("await asyncio.create_task(gets())", "await client.get("),
        ("await asyncio.create_task(asyncio.open_connection('127.0.0.1', 9))", "TASK"),
        ("await asyncio.gather(asyncio.to_thread(print))", "TASK"),
        ("async with anyio.create_task_group() as group: group.start_soon(anyio.to_thread.run_sync, print)", "TASK"),
        ("async with anyio.create_task_group() as group: group.start_soon(anyio.connect_tcp, '127.0.0.1', 9)", "TASK"),
    ],
)
def test_io_in_a_task_is_said_to_be_where_the_body_waits_for_it(tmp_path: Path, task: str, line: str) -> None:
    packages = tmp_path / "site-packages"
    shutil.copytree(Path(perdure.__file__).parent, packages / "perdure", ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "script.py"
    script.write_text(DOES_IO_IN_A_TASK.replace("TASK", task))

    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ran.returncode == 0, ran.stderr
    name, named = ran.stdout.split()
    assert name == "EffectOutsideStep"
    file, _, number = named.rpartition(":")
    assert Path(file) == script
    assert line in DOES_IO_IN_A_TASK.splitlines()[int(number) - 1]


def test_every_public_method_of_an_event_loop_is_there_or_refused(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        loop = asyncio.get_running_loop()
        for name in dir(asyncio.AbstractEventLoop):
            if not name.startswith("_"):
                assert getattr(type(loop), name) is not getattr(asyncio.AbstractEventLoop, name), name
        return b"all"

    assert bodies.feed(main, START).finish == Complete(b"all")


def test_the_body_has_a_loop_like_any_other(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        loop = asyncio.get_running_loop()
        assert asyncio.get_event_loop() is loop
        assert loop.is_running()
        assert not loop.is_closed()
        assert not loop.get_debug()
        assert loop.get_task_factory() is None
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.all_tasks() == {task}
        with pytest.raises(RuntimeError):
            loop.set_task_factory(None)
        with pytest.raises(RuntimeError):
            loop.set_exception_handler(None)
        with pytest.raises(RuntimeError):
            asyncio.run(asyncio.sleep(0))
        return task.get_name().encode()

    with pytest.warns(RuntimeWarning, match="never awaited"):
        assert bodies.feed(main, START).finish == Complete(b"0")


# --- I/O that does not go through the loop --------------------------------------------------------

EFFECTS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: (path / "x").open("w"),
    "write_text": lambda path: (path / "x").write_text("x"),
    "listdir": lambda path: os.listdir(path),
    "mkdir": lambda path: (path / "x").mkdir(),
    "socket": lambda path: socket.create_connection(("127.0.0.1", 9)),
    "subprocess": lambda path: subprocess.run(["true"], check=False),
    "spawn": lambda path: os.posix_spawn("/bin/true", ["true"], {}),
    "sqlite3": lambda path: sqlite3.connect(path / "x"),
}
# Older Pythons do not audit these.
if sys.version_info >= (3, 12):
    EFFECTS["thread"] = lambda path: threading.Thread(target=print).start()
if sys.version_info >= (3, 13):
    EFFECTS["sleep"] = lambda path: time.sleep(0)


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_audit_finds_io_of_a_body_and_names_the_line(bodies: Bodies, effect: str, tmp_path: Path) -> None:
    async def main(body: Body) -> bytes:
        EFFECTS[effect](tmp_path)
        return b""

    with audit.watching():
        error = error_of(bodies.feed(main, START))
    assert isinstance(error, EffectOutsideStep)
    assert Path(error.where.rpartition(":")[0]) == Path(__file__)
    assert not list(tmp_path.iterdir())


def test_the_audit_watches_bodies_alone_and_only_while_somebody_asks_for_it(bodies: Bodies, tmp_path: Path) -> None:
    async def main(body: Body) -> bytes:
        (tmp_path / "body").touch()
        return b"touched"

    with audit.watching():
        assert list(tmp_path.iterdir()) == []
    assert bodies.feed(main, START).finish == Complete(b"touched")


def test_another_thread_may_do_io_while_a_body_runs(bodies: Bodies, tmp_path: Path) -> None:
    begin, done = threading.Event(), threading.Event()
    touched: list[bool] = []

    def touch() -> None:
        begin.wait(10)
        (tmp_path / "thread").touch()
        touched.append(True)
        done.set()

    thread = threading.Thread(target=touch)
    thread.start()

    async def main(body: Body) -> bytes:
        begin.set()
        done.wait(10)
        return b""

    with audit.watching():
        bodies.feed(main, START)
    thread.join(10)
    assert touched == [True]


class Ends:
    """Reads a file when it is collected, as a pool may that closes itself."""

    def __del__(self) -> None:
        os.listdir(".")
        ended.append(self)


ended: list[Ends] = []


def test_imports_logging_tracebacks_and_the_ends_of_objects_are_no_effects_of_a_body(
    bodies: Bodies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_a_body.py").write_text("value = 1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    log = logging.getLogger("tests.loop")
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    log.addHandler(handler)

    async def main(body: Body) -> bytes:
        import module_of_a_body  # pyright: ignore[reportMissingImports]  # written above

        assert module_of_a_body.value == 1  # pyright: ignore[reportUnknownMemberType]
        log.warning("hello")
        Ends()
        try:
            raise ValueError("shown")
        except ValueError:
            return traceback.format_exc().encode()

    with audit.watching():
        body = bodies.feed(main, START)
    handler.close()
    log.removeHandler(handler)
    assert isinstance(body.finish, Complete)
    assert b"shown" in body.finish.value
    assert "hello" in (tmp_path / "log").read_text()
    assert len(ended) == 1


# --- bodies that would hurt -----------------------------------------------------------------------


def test_a_body_that_never_waits_is_stopped(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Spinning) as caught:
        bodies.feed(main, START)
    assert caught.value.callbacks == 100_000


def test_a_body_that_leaves_ever_new_tasks_is_stopped(bodies: Bodies) -> None:
    async def again() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            kept.append(asyncio.create_task(again()))
            await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []

    async def main(body: Body) -> bytes:
        kept.append(asyncio.create_task(again()))
        await asyncio.sleep(0)
        return b""

    with pytest.raises(Spinning):
        bodies.feed(main, START)


def test_many_callbacks_in_many_feeds_are_no_reason_to_stop(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        for _ in range(3):
            await body.receive("go", bytes)
            for _ in range(60_000):
                await asyncio.sleep(0)
        return b"end"

    assert bodies.feed(main, START, GO, GO, GO).finish == Complete(b"end")


@pytest.mark.parametrize("leave", [sys.exit, lambda: (_ for _ in ()).throw(GeneratorExit)], ids=["exit", "generator"])
def test_a_body_that_wants_to_leave_python_only_fails(bodies: Bodies, leave: Callable[[], Any]) -> None:
    async def main(body: Body) -> bytes:
        leave()
        return b""

    assert isinstance(bodies.feed(main, START).finish, Fail)


def test_a_task_that_exits_fails_its_group(bodies: Bodies, caplog: pytest.LogCaptureFixture) -> None:
    async def exits() -> None:
        sys.exit("bye")

    async def main(body: Body) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(exits())
            group.create_task(asyncio.sleep(3600))
        return b""

    finish = bodies.feed(main, START).finish
    assert isinstance(finish, Fail)
    assert (error_type(finish.error), error_message(finish.error)) == ("SystemExit", "bye")
    assert caplog.records == []


def test_a_callback_that_raises_is_logged_and_the_body_goes_on(
    bodies: Bodies, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks() -> None:
        raise ValueError("in a callback")

    async def main(body: Body) -> bytes:
        asyncio.get_running_loop().call_soon(breaks)
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return b"end"

    assert bodies.feed(main, START).finish == Complete(b"end")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError, SystemExit]
    assert "c1" in caplog.text


def test_an_interrupt_drops_the_body_and_goes_on_its_way(bodies: Bodies) -> None:
    left: list[str] = []

    async def main(body: Body) -> bytes:
        async def waits() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                left.append("task")

        kept = asyncio.create_task(waits())
        await body.receive("go", bytes)
        assert not kept.done()
        raise KeyboardInterrupt

    body = bodies.feed(main, START)
    with pytest.raises(KeyboardInterrupt):
        body.feed(GO)
    assert left == ["task"]
    assert body.finish is None


# --- apart from the outside -----------------------------------------------------------------------

outside: contextvars.ContextVar[str] = contextvars.ContextVar("outside")


def test_a_body_does_not_see_the_context_of_whoever_feeds_it(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        seen = [outside.get("nothing")]
        await body.receive("go", bytes)
        seen.append(outside.get("nothing"))
        outside.set("of the body")
        await body.receive("go", bytes)
        return ", ".join([*seen, outside.get("nothing")]).encode()

    token = outside.set("of a request")
    try:
        assert bodies.feed(main, START, GO, GO).finish == Complete(b"nothing, nothing, of the body")
        assert outside.get() == "of a request"
    finally:
        outside.reset(token)


def test_a_task_of_a_body_gets_a_copy_of_its_parents_context(bodies: Bodies) -> None:
    async def child() -> str:
        mine = outside.get("nothing")
        outside.set("of the child")
        return mine

    async def main(body: Body) -> bytes:
        outside.set("of the body")
        return f"{await asyncio.create_task(child())}, {outside.get()}".encode()

    assert bodies.feed(main, START).finish == Complete(b"of the body, of the body")


async def test_the_loop_and_task_of_whoever_feeds_are_in_their_place_again(bodies: Bodies) -> None:
    async def pages() -> AsyncIterator[int]:
        yield 1

    async def main(body: Body) -> bytes:
        assert asyncio.get_running_loop() is not loop
        assert asyncio.current_task() is not task
        async for _ in pages():
            await body.receive("go", bytes)
        return b""

    loop, task, hooks = asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()
    body = bodies.feed(main, START)
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
    assert sys.get_asyncgen_hooks() == hooks
    body.drop()
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
    await asyncio.sleep(0)


async def test_what_belongs_to_a_body_cannot_be_asked_from_elsewhere(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        return await body.receive("go", bytes)

    body = bodies.feed(main, START)
    with pytest.raises(RuntimeError, match="outside of its body"):
        await step(body, "fetch")
    with pytest.raises(RuntimeError, match="outside of its body"):
        body.patched("change")
    assert body.feed(Resumed(105.0)) == []


# --- what could differ between two lives ----------------------------------------------------------


def test_as_completed_over_coroutines_is_refused_with_advice(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        for each in asyncio.as_completed([asyncio.sleep(1)]):
            await each
        return b""

    error = error_of(bodies.feed(main, START))
    assert "give it tasks" in str(error)


def test_waiting_for_what_gather_returned_is_refused_with_advice(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        both = [asyncio.gather(step(body, "a")), asyncio.gather(step(body, "b"))]
        await asyncio.wait(both)
        return b""

    error = error_of(bodies.feed(main, START))
    assert "give it tasks" in str(error)


def test_sets_of_tasks_and_futures_come_out_in_the_same_order_in_every_life(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        tasks: set[asyncio.Future[Any]] = {asyncio.create_task(asyncio.sleep(9), name=str(n)) for n in range(40)}
        junk.append([object() for _ in range(len(junk) * 7)])
        futures = {asyncio.get_running_loop().create_future() for _ in range(40)}
        numbers = {future: n for n, future in enumerate(sorted(futures, key=hash))}
        order = [task.get_name() for task in tasks if isinstance(task, asyncio.Task)]
        return " ".join([*order, *(str(numbers[future]) for future in futures)]).encode()

    junk: list[list[object]] = []
    ends = {str(bodies.feed(main, START).finish) for _ in range(20)}
    assert len(ends) == 1


def test_what_asyncio_keeps_of_all_tasks_does_not_crowd_in_one_place(bodies: Bodies) -> None:
    """Its table holds the tasks of all bodies: were the first of each hashed alike, each would be compared with all."""
    hashes: set[int] = set()

    async def main(body: Body) -> bytes:
        hashes.add(hash(asyncio.current_task()))
        return b""

    for seed in range(1000):
        bodies.feed(main, Started(100.0, seed, "3.11"))
    assert len(hashes) == 1000
    assert len({each % 4096 for each in hashes}) > 700


def test_anyio_wakes_the_tasks_of_a_scope_in_order(bodies: Bodies) -> None:
    async def main(body: Body) -> bytes:
        order: list[int] = []

        async def waits(n: int) -> None:
            try:
                await anyio.sleep(3600)
            finally:
                order.append(n)

        async with anyio.create_task_group() as group:
            for n in range(10):
                group.start_soon(waits, n)
            await step(body, "work")
            group.cancel_scope.cancel()
        return str(order).encode()

    for _ in range(20):
        body = bodies.feed(main, START)
        [work] = body.pending.values()
        assert isinstance(work, RunStep)
        body.feed(StepReturned(work.key, work.name, work.digest, b"1", 1, 101.0, 101.0))
        assert body.finish == Complete(str(list(range(10))).encode())


@pytest.mark.parametrize("where", ["its own body", "another body", "no body", "nowhere"])
def test_wherever_the_collector_finds_a_generator_it_is_closed_at_the_end_of_its_own_body(
    bodies: Bodies, where: str
) -> None:
    async def pages(body: Body) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await step(body, "close")

    async def leaves_it_in_a_cycle(body: Body) -> None:
        cycle: list[Any] = [pages(body)]
        cycle.append(cycle)
        await anext(cycle[0])

    async def main(body: Body) -> bytes:
        await leaves_it_in_a_cycle(body)
        if where == "its own body":
            gc.collect()
        await asyncio.sleep(0)
        assert not body.pending
        await body.receive("go", bytes)
        return b"end"

    async def collects(body: Body) -> bytes:
        gc.collect()
        return b"collected"

    body = bodies.feed(main, START)
    if where == "another body":
        assert bodies.feed(collects, START).finish == Complete(b"collected")
        assert not body.pending
    if where == "no body":
        gc.collect()
    [close] = body.feed(GO)
    assert isinstance(close, RunStep)
    assert (close.key, close.name) == ("0.g1/1", "close")
    assert body.feed(StepReturned(close.key, close.name, close.digest, b"1", 1, 101.0, 101.0)) == [Complete(b"end")]
