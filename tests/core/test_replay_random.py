"""Random bodies, random interleavings, random crashes and cancels: replay ends the same way, and runs nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.body import Body
from perdure.core.commands import Finish
from tests.core.bodies import Get, Job, Main, Put, encode, failing_step, step
from tests.core.simulation import Crash, Plan, World, check, run

# --- a program, drawn by hypothesis, and what runs it ---------------------------------------------


@dataclass(frozen=True)
class Op:
    kind: str
    parts: tuple[Op, ...] = ()

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.parts))})" if self.parts else self.kind


LEAVES = ["step", "fails", "sleep", "yield", "put", "get", "child", "refused", "detach", "receive", "patched", "note"]
NODES = [
    "in order",
    "gather",
    "task group",
    "anyio group",
    "wait for the first",
    "wait for",
    "timeout",
    "anyio timeout",
    "shield",
    "leave running",
    "generator",
    "left generator",
    "clean up",
    "swallow a cancel",
    "in turn",
]

programs = st.recursive(
    st.sampled_from(LEAVES).map(Op),
    lambda ops: st.builds(Op, st.sampled_from(NODES), st.lists(ops, min_size=1, max_size=3).map(tuple)),
    max_leaves=10,
)


class Run:
    """One life of a program. Its tasks share the `trail`, and what is in it is an argument of later steps."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.trail: list[Any] = []
        self.lock = asyncio.Lock()

    async def do(self, op: Op) -> None:
        self.trail.append(len(self.trail))
        await HOW[op.kind](self, *op.parts)

    async def in_order(self, *ops: Op) -> None:
        for op in ops:
            await self.do(op)

    # leaves

    async def step(self) -> None:
        self.trail.append(await step(self.body, "step", tuple(self.trail[-3:])))

    async def fails(self) -> None:
        await failing_step(self.body, "fails", ValueError("it fails"))

    async def sleep(self) -> None:
        await asyncio.sleep(1 + len(self.trail) % 3)

    async def yields(self) -> None:
        await asyncio.sleep(0)

    async def put(self) -> None:
        await self.body.store("numbers", Put("a", len(self.trail)))

    async def get(self) -> None:
        self.trail.append(await self.body.store("numbers", Get("a")) == b"null")

    async def child(self) -> None:
        self.trail.append(await self.body.child(Job("double", encode(len(self.trail))), len))

    async def refused(self) -> None:
        await self.body.child(Job("refused"), len)

    async def detach(self) -> None:
        await self.body.join(await self.body.detach(Job("double", b"1")), len)

    async def receive(self) -> None:
        self.trail.append(await self.body.receive("decision", len))

    async def patched(self) -> None:
        if self.body.patched("change"):
            self.trail.append("patched")

    async def note(self) -> None:
        self.trail.append(self.body.random.random())

    # nodes

    async def gather(self, *ops: Op) -> None:
        await asyncio.gather(*map(self.do, ops))

    async def task_group(self, *ops: Op) -> None:
        async with asyncio.TaskGroup() as group:
            for op in ops:
                group.create_task(self.do(op))

    async def anyio_group(self, *ops: Op) -> None:
        async with anyio.create_task_group() as group:
            for op in ops:
                group.start_soon(self.do, op)

    async def wait_for_the_first(self, *ops: Op) -> None:
        made = [asyncio.create_task(self.do(op)) for op in ops]
        try:
            done, late = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
            for task in (*done, *late):
                self.trail.append(task.get_name())
        finally:
            for task in made:
                task.cancel()
        await asyncio.wait(made)
        for task in done:
            task.result()

    async def wait_for(self, *ops: Op) -> None:
        for op in ops:
            await asyncio.wait_for(self.do(op), 2)

    async def timeout(self, *ops: Op) -> None:
        async with asyncio.timeout(2):
            await self.in_order(*ops)

    async def anyio_timeout(self, *ops: Op) -> None:
        with anyio.move_on_after(2) as scope:
            await self.in_order(*ops)
        self.trail.append(scope.cancelled_caught)

    async def shield(self, *ops: Op) -> None:
        await asyncio.shield(asyncio.ensure_future(self.in_order(*ops)))

    async def leave_running(self, *ops: Op) -> None:
        asyncio.create_task(self.in_order(*ops)).add_done_callback(_take_error)  # to be left is its part

    async def _pages(self, *ops: Op) -> AsyncGenerator[int]:
        try:
            for op in ops:
                await self.do(op)
                yield len(self.trail)
        finally:
            await self.step()

    async def generator(self, *ops: Op) -> None:
        async for page in self._pages(*ops):
            self.trail.append(page)

    async def left_generator(self, *ops: Op) -> None:
        async for page in self._pages(*ops):
            self.trail.append(page)
            break

    async def clean_up(self, *ops: Op) -> None:
        try:
            await self.in_order(*ops)
        finally:
            await self.step()
            await self.yields()
            await self.step()

    async def swallow_a_cancel(self, *ops: Op) -> None:
        try:
            await self.in_order(*ops)
        except (asyncio.CancelledError, Exception) as error:
            self.trail.append(type(error).__name__)

    async def in_turn(self, *ops: Op) -> None:
        async with self.lock:
            self.trail.append("in turn")
        await self.gather(*ops)


def _take_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


HOW: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    kind: getattr(Run, {"yield": "yields"}.get(kind, kind.replace(" ", "_"))) for kind in LEAVES + NODES
}


def main_of(program: Op) -> Main:
    async def main(body: Body) -> bytes:
        life = Run(body)
        try:
            await life.do(program)
        except Exception as error:
            life.trail.append(type(error).__name__)
        await step(body, "last", life.trail)
        return encode(life.trail)

    return main


# --- the properties -------------------------------------------------------------------------------

SIGNALS = tuple(range(20))


def live_through(main: Main, seed: int, crashes: list[int], cancel: float, cancels: int) -> tuple[World, Finish]:
    """Crash at each of these lengths of the journal that it comes to, then end."""
    world, chance = World(), Random(seed)
    for crash_at in [*sorted(crashes), None]:
        plan = Plan(chance, SIGNALS, cancel=cancel, cancels=cancels, crash_at=crash_at)
        try:
            return world, run(world, main, plan)
        except Crash:
            continue
    raise AssertionError("the last life has no crash")


@given(
    program=programs,
    seed=st.integers(0, 2**32),
    crashes=st.lists(st.integers(0, 25), max_size=5),
    cancel=st.sampled_from([0.0, 0.05, 0.3]),
    cancels=st.sampled_from([1, 1, 2]),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_any_crash_any_cancel(program: Op, seed: int, crashes: list[int], cancel: float, cancels: int) -> None:
    main = main_of(program)
    world, finish = live_through(main, seed, crashes, cancel, cancels)
    check(world, main, finish)
