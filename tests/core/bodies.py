"""Bodies of every shape that people write, for the tests of replay.

Each asks only its `Body`. `BODIES` names those whose result does not depend on what was faster, with that result;
`RACES` those whose does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio

from perdure.core.body import Body
from perdure.core.codec import digest
from perdure.core.commands import SetStatus, Work
from perdure.core.retry import ONCE

Main = Callable[[Body], Coroutine[Any, Any, bytes]]


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def step(body: Body, name: str, *args: Any) -> Coroutine[Any, Any, Any]:
    """A step that returns its arguments (the only one alone)."""
    value = args[0] if len(args) == 1 else list(args)
    return body.step(name, digest(args, {}), Work(run=lambda: value, encode=encode, retry=ONCE), json.loads)


def failing_step(body: Body, name: str, error: Exception) -> Coroutine[Any, Any, Any]:
    def run() -> None:
        raise error

    return body.step(name, digest((), {}), Work(run=run, encode=encode, retry=ONCE), json.loads)


@dataclass(frozen=True)
class Job:
    """A job that is asked for, as `effects.ChildAsk`."""

    name: str
    arguments: bytes = b"null"
    call_key: str | None = None
    after: float | None = None
    options: Any = None

    @property
    def digest(self) -> str:
        return digest((self.arguments,), {})

    @property
    def function(self) -> str:
        return f"tests:{self.name}"


@dataclass(frozen=True)
class Put:
    """A store operation; the core does not look into it."""

    key: str
    value: int


@dataclass(frozen=True)
class Get:
    key: str


async def outcomes(*awaitables: Awaitable[Any]) -> list[Any]:
    """Of each the value, or its error's text."""
    done = await asyncio.gather(*awaitables, return_exceptions=True)
    return [str(each) if isinstance(each, BaseException) else each for each in done]


# --- one thing after another ----------------------------------------------------------------------


async def nothing(body: Body) -> bytes:
    return encode(None)


async def sequential(body: Body) -> bytes:
    total = 0
    for n in range(5):
        total += await step(body, "add", n)
    return encode(total)


async def sleeps(body: Body) -> bytes:
    began = body.now()
    for _ in range(3):
        await step(body, "poll")
        await asyncio.sleep(60)
    return encode(body.now() - began >= 180)


async def step_raises(body: Body) -> bytes:
    try:
        await failing_step(body, "pay", ValueError("no money"))
    except ValueError as error:
        return encode([str(error), await step(body, "tell", str(error))])
    return encode(None)


async def fails(body: Body) -> bytes:
    await step(body, "begin")
    raise LookupError("nothing there")


async def chance(body: Body) -> bytes:
    picked = [body.random.random()]
    picked.append(await step(body, "roll", body.random.randrange(1000)))
    return encode([*picked, body.random.choice("abc")])


async def says_what_it_does(body: Body) -> bytes:
    for n in range(3):
        body.tell(SetStatus(f"{n} of 3", None))
        await step(body, "work", n)
    return encode("done")


async def takes_the_new_way(body: Body) -> bytes:
    ways: list[Any] = []
    for n in range(3):
        if body.patched("new way"):
            ways.append(await step(body, "new", n))
        else:
            ways.append(await step(body, "old", n))
    return encode(ways)


# --- side by side ---------------------------------------------------------------------------------


async def branches(body: Body) -> bytes:
    async def branch(n: int) -> list[int]:
        first = await step(body, "first", n)
        return [first, await step(body, "second", first)]

    return encode(await asyncio.gather(*(branch(n) for n in range(4))))


async def nested_groups(body: Body) -> bytes:
    async def inner(n: int, m: int) -> Any:
        return await step(body, "inner", n, m)

    async def outer(n: int) -> list[Any]:
        await step(body, "outer", n)
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(inner(n, m)) for m in range(2)]
        return [task.result() for task in made]

    async with asyncio.TaskGroup() as group:
        made = [group.create_task(outer(n)) for n in range(3)]
    return encode([task.result() for task in made])


async def at_most_two(body: Body) -> bytes:
    gate = asyncio.Semaphore(2)

    async def branch(n: int) -> Any:
        async with gate:
            return await step(body, "narrow", n)

    return encode(await asyncio.gather(*(branch(n) for n in range(6))))


async def queue_of_work(body: Body) -> bytes:
    queue: asyncio.Queue[int | None] = asyncio.Queue(2)
    done: list[int] = []
    ready = asyncio.Event()

    async def work() -> None:
        await ready.wait()
        while (item := await queue.get()) is not None:
            done.append(await step(body, "item", item))

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(work())
        await step(body, "prepare")
        ready.set()
        for n in range(6):
            await queue.put(n)
        for _ in range(2):
            await queue.put(None)
    return encode(sorted(done))


async def anyio_groups(body: Body) -> bytes:
    done: dict[int, Any] = {}

    async def branch(n: int) -> None:
        await anyio.sleep(n)
        done[n] = await step(body, "branch", n)

    async with anyio.create_task_group() as group:
        for n in range(4):
            group.start_soon(branch, n)
    return encode([done[n] for n in range(4)])


async def shields(body: Body) -> bytes:
    async def commit() -> Any:
        await step(body, "prepare")
        return await step(body, "commit")

    inner = asyncio.ensure_future(commit())
    try:
        async with asyncio.timeout(5):
            await asyncio.shield(inner)
    except TimeoutError:
        pass
    return encode(await inner)


async def group_fails(body: Body) -> bytes:
    """Members in every stage are cancelled, and each undoes what it did."""
    undone: list[int] = []

    async def pays(n: int) -> None:
        await step(body, "reserve", n)
        try:
            await step(body, "pay", n)
            await asyncio.sleep(3600)
        finally:
            undone.append(await step(body, "undo", n))

    async def breaks() -> None:
        await step(body, "check")
        raise ValueError("bad")

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(pays(n))
            group.create_task(breaks())
    except* ValueError:
        await step(body, "tell")
    return encode("told")


async def anyio_group_fails(body: Body) -> bytes:
    async def pays(n: int) -> None:
        try:
            await step(body, "pay", n)
            await anyio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await step(body, "undo", n)

    async def breaks() -> None:
        await step(body, "check")
        raise ValueError("bad")

    try:
        async with anyio.create_task_group() as group:
            for n in range(4):
                group.start_soon(pays, n)
            group.start_soon(breaks)
    except* ValueError:
        await step(body, "tell")
    return encode("told")


async def waits_for_all(body: Body) -> bytes:
    done, _ = await asyncio.wait([asyncio.create_task(step(body, "get", n)) for n in range(5)])
    # In the order of a set: the steps below have keys in that order, and arguments that must fit them.
    return encode(sorted([await step(body, "save", task.result()) for task in done]))


async def as_each_completes(body: Body) -> bytes:
    made = [asyncio.create_task(step(body, "get", n)) for n in range(4)]
    return encode(sorted([await step(body, "save", await each) for each in asyncio.as_completed(made)]))


# --- races and time-outs --------------------------------------------------------------------------


async def race(body: Body) -> bytes:
    async def bid(n: int) -> Any:
        return await step(body, "bid", await step(body, "look", n))

    made = [asyncio.create_task(bid(n)) for n in range(3)]
    done, late = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    won = sorted(task.result() for task in done)
    return encode([won, await step(body, "won", won)])


async def budget(body: Body) -> bytes:
    try:
        async with asyncio.timeout(1):
            paid = await step(body, "pay")
    except TimeoutError:
        paid = await step(body, "cancel the order")
    return encode([paid, await step(body, "mail")])


async def waits_a_while(body: Body) -> bytes:
    """`wait_for` makes a hidden task on 3.11; the keys do not show it."""

    async def two(n: int) -> Any:
        return await step(body, "second", await step(body, "first", n))

    async def in_time(n: int) -> Any:
        try:
            return await asyncio.wait_for(two(n), 1)
        except TimeoutError:
            return await step(body, "late", -n)

    return encode(await step(body, "sum", sorted(await asyncio.gather(*(in_time(n) for n in range(3))))))


async def anyio_moves_on(body: Body) -> bytes:
    got: list[Any] = []
    for n in range(3):
        with anyio.move_on_after(1):
            got.append(await step(body, "try", n))
    return encode([got, await step(body, "rest")])


async def anyio_around_a_group(body: Body) -> bytes:
    """anyio cancels the group again and again while its members clean up."""
    undone: list[int] = []

    async def pays(n: int) -> None:
        try:
            await step(body, "pay", n)
        finally:
            undone.append(await step(body, "undo", n))

    with anyio.move_on_after(1):
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(pays(n))
    return encode(await step(body, "rest", undone))


async def compensates(body: Body) -> bytes:
    async def one(n: int) -> None:
        await step(body, "reserve", n)
        try:
            await step(body, "pay", n)
        except asyncio.CancelledError:
            await step(body, "refund", n)
            await step(body, "mail", n)
            raise

    try:
        await asyncio.gather(*(one(n) for n in range(3)))
    except asyncio.CancelledError:
        await step(body, "note", "cancelled")
        raise
    return encode("paid")


async def swallows_a_cancel(body: Body) -> bytes:
    try:
        await step(body, "work")
    except asyncio.CancelledError:
        return encode(["cancelled", await step(body, "tidy")])
    return encode(["worked"])


async def leaves_tasks(body: Body) -> bytes:
    async def ticks() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                await step(body, "tick")
        finally:
            await step(body, "stop")

    kept = asyncio.create_task(ticks())
    await step(body, "work")
    return encode(["done", kept.done()])


async def leaves_a_generator(body: Body) -> bytes:
    async def pages() -> AsyncGenerator[Any]:
        try:
            for n in range(3):
                yield await step(body, "page", n)
        finally:
            await step(body, "close")

    async for page in pages():
        if page == 1:
            break
    async with aclosing(pages()) as others:
        async for _ in others:
            break
    return encode(await step(body, "after"))


# --- others ---------------------------------------------------------------------------------------


async def receives(body: Body) -> bytes:
    first = await body.receive("decision", json.loads)
    await step(body, "note", first)
    return encode([first, await body.receive("decision", json.loads), await body.receive("decision", json.loads)])


async def receives_or_not(body: Body) -> bytes:
    got: list[Any] = []
    for _ in range(4):
        try:
            async with asyncio.timeout(1):
                got.append(await body.receive("decision", json.loads))
        except TimeoutError:
            got.append(await step(body, "remind"))
    return encode(got)


async def several_receive(body: Body) -> bytes:
    async def one(n: int) -> Any:
        return [n, await body.receive("decision", json.loads), await step(body, "thank", n)]

    return encode(await asyncio.gather(*(one(n) for n in range(3))))


async def has_children(body: Body) -> bytes:
    async def child(n: int) -> Any:
        return await body.child(Job("double", encode(n)), json.loads)

    return encode([await child(1), *await asyncio.gather(child(2), child(3))])


async def child_fails(body: Body) -> bytes:
    return encode(await outcomes(body.child(Job("fails"), json.loads), body.child(Job("refused"), json.loads)))


async def gives_up_a_child(body: Body) -> bytes:
    got: list[Any] = []
    for n in range(2):
        try:
            async with asyncio.timeout(1):
                got.append(await body.child(Job("double", encode(n)), json.loads))
        except TimeoutError:
            got.append(await step(body, "without", n))
    return encode(got)


async def a_refused_child_stops_the_others(body: Body) -> bytes:
    """The others have been started already, in the same commit; their starts come in all the same."""
    try:
        async with asyncio.TaskGroup() as group:
            for name in ("double", "refused", "double"):
                group.create_task(body.child(Job(name, encode(1)), json.loads))
            group.create_task(body.store("numbers", Put("a", 1)))
    except* Exception:
        await step(body, "tell")
    return encode("told")


async def detaches_and_joins(body: Body) -> bytes:
    call_id = await body.detach(Job("double", encode(4)))
    await step(body, "note")
    return encode(await body.join(call_id, json.loads))


async def keeps_numbers(body: Body) -> bytes:
    for n in range(3):
        await body.store("numbers", Put(f"n{n}", n))
    found = await asyncio.gather(*(body.store("numbers", Get(f"n{n}")) for n in range(4)))
    return encode([json.loads(raw) for raw in found])


BODIES: dict[Main, Any] = {
    nothing: None,
    sequential: 10,
    sleeps: True,
    step_raises: ["no money", "no money"],
    says_what_it_does: "done",
    takes_the_new_way: [0, 1, 2],
    branches: [[n, n] for n in range(4)],
    nested_groups: [[[n, 0], [n, 1]] for n in range(3)],
    at_most_two: [0, 1, 2, 3, 4, 5],
    queue_of_work: [0, 1, 2, 3, 4, 5],
    anyio_groups: [0, 1, 2, 3],
    shields: [],
    group_fails: "told",
    anyio_group_fails: "told",
    waits_for_all: [0, 1, 2, 3, 4],
    as_each_completes: [0, 1, 2, 3],
    leaves_tasks: ["done", False],
    leaves_a_generator: [],
    receives: ["yes", "no", "yes"],
    has_children: [2, 4, 6],
    child_fails: ["Call double ended with ValueError: it failed", "Call refused is refused"],
    a_refused_child_stops_the_others: "told",
    detaches_and_joins: 8,
    keeps_numbers: [0, 1, 2, None],
}

RACES: list[Main] = [
    fails,
    chance,
    race,
    budget,
    waits_a_while,
    anyio_moves_on,
    anyio_around_a_group,
    compensates,
    swallows_a_cancel,
    receives_or_not,
    several_receive,
    gives_up_a_child,
]

ALL: list[Main] = [*BODIES, *RACES]
