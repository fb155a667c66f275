"""Random bodies that die at random places end as if nothing had happened.

`PERDURE_EXAMPLES=5000` tries more of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.commands import Complete
from perdure.core.events import Completed
from perdure.effects import Effects
from perdure.engine import GetEntry, Query, SignalSpec, StoreReply, SwapEntry
from perdure.engines.embedded.journal import FindCalls, ReadRecord
from perdure.errors import InputUnavailable
from tests.crash.corpus import Scenario, Send, question
from tests.crash.memory import Place, World
from tests.crash.outside import check_order, outside
from tests.engines.functions import ANY, body, child_ask, step
from tests.histories.replay import finish_of

Tree = list[Any]
"""What a body does: `[kind, …]`, with trees inside."""

EXAMPLES = int(os.environ.get("PERDURE_EXAMPLES", "80"))

LEAVES = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 4)).map(list),
    st.tuples(st.just("sleep"), st.integers(0, 4)).map(list),
    st.just(["count"]),
    st.just(["hear"]),
    st.just(["ask"]),
)


def branches(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["in order", "together"]), several).map(list),
        st.tuples(st.just("race"), children, children).map(list),
        st.tuples(st.just("in time"), st.integers(1, 4), children).map(list),
        st.tuples(st.just("finally"), children, children).map(list),
        st.tuples(st.just("child"), children).map(list),
    )


TREES = st.recursive(LEAVES, branches, max_leaves=10)

DEATHS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["before", "after"])), max_size=3)


# --- the body -------------------------------------------------------------------------------------


async def grow(effects: Effects, tree: Tree) -> Any:
    match tree:
        case ["step", turns]:
            return await step(effects, work, turns)
        case ["sleep", seconds]:
            await asyncio.sleep(seconds)
            return "slept"
        case ["count"]:
            return await add_one(effects)
        case ["hear"]:
            await effects.receive("word", ANY.decode)
            return "heard"
        case ["ask"]:
            with suppress(InputUnavailable):
                await question(effects, "anybody", nobody="refuse")
            return "asked"
        case ["in order", trees]:
            return [await grow(effects, each) for each in trees]
        case ["together", trees]:
            return list(await asyncio.gather(*(grow(effects, each) for each in trees)))
        case ["race", one, other]:
            return await race(grow(effects, one), grow(effects, other))
        case ["in time", seconds, inner]:
            try:
                async with asyncio.timeout(seconds):
                    return await grow(effects, inner)
            except TimeoutError:
                return "late"
        case ["finally", inner, last]:
            try:
                return await grow(effects, inner)
            finally:
                await grow(effects, last)
        case ["child", inner]:
            return await effects.child(child_ask(GROWN, inner), ANY.decode)
        case _:
            raise AssertionError(tree)


async def work(turns: int) -> str:
    """How many turns of the loop it takes decides what is faster."""
    outside.happen("work")
    for _ in range(turns):
        await asyncio.sleep(0)
    return "worked"


async def add_one(effects: Effects) -> str:
    while True:
        read = StoreReply.from_bytes(await effects.store("things", GetEntry("growing", "n")))
        before = read.entries[0][1] if read.entries else None
        after = str(int(before or b"0") + 1).encode()
        swapped = await effects.store("things", SwapEntry("growing", "n", before, after))
        if StoreReply.from_bytes(swapped).done:
            return "counted"


async def race(*runners: Awaitable[Any]) -> Any:
    tasks = [asyncio.ensure_future(runner) for runner in runners]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [task.result() for task in tasks if task in done]


GROWN = body(grow, name="grown", kind="job")


# --- what must hold -------------------------------------------------------------------------------


def inside(tree: Tree) -> list[Tree]:
    match tree:
        case ["in order" | "together", trees]:
            return trees
        case ["race" | "finally", one, other]:
            return [one, other]
        case ["in time", _, inner] | ["child", inner]:
            return [inner]
        case _:
            return []


def kinds(tree: Tree) -> Iterator[str]:
    yield tree[0]
    for each in inside(tree):
        yield from kinds(each)


def depends_on_what_is_faster(tree: Tree) -> bool:
    return not {"race", "in time"}.isdisjoint(kinds(tree))


def expected(tree: Tree) -> Any:
    match tree:
        case ["in order" | "together", trees]:
            return [expected(each) for each in trees]
        case ["finally" | "child", inner, *_]:
            return expected(inner)
        case [kind, *_]:
            return {"step": "worked", "sleep": "slept", "count": "counted", "hear": "heard", "ask": "asked"}[kind]
        case _:
            raise AssertionError(tree)


def scenario_of(tree: Tree) -> Scenario:
    return Scenario(
        body(grow, name="growing"),
        others=(GROWN,),
        argument=tree,
        actions=tuple(Send("word", n, nth=n + 1) for n in range([*kinds(tree)].count("hear"))),
        options={"signals": (SignalSpec("word", False, {}),)},
        settings={"bodies_in_memory": 2},
    )


def no_child_hears(tree: Tree) -> bool:
    """Words are sent to the first call alone."""
    if tree[0] == "child":
        return "hear" not in kinds(tree)
    return all(no_child_hears(each) for each in inside(tree))


# A body that is dropped while it makes coroutines for a gather leaves some unawaited.
@pytest.mark.filterwarnings("ignore:coroutine 'grow' was never awaited:RuntimeWarning")
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(tree=TREES.filter(no_child_hears), gaps=DEATHS)
def test_a_random_body_that_dies_at_random_places_ends_as_if_nothing_had_happened(tree: Tree, gaps: list[Any]) -> None:
    deaths: list[Place] = [
        (number, side) for number, (_, side) in zip(accumulate(gap for gap, _ in gaps), gaps, strict=True)
    ]
    world = World(scenario_of(tree), deaths)
    asyncio.run(world.live())
    check_order(world.memory.lines())
    views = world.ask(FindCalls(Query(limit=1000))).calls
    for view in views:
        assert view.status == "completed" or (view.parent and depends_on_what_is_faster(tree))
        replay(world, view.id)
    if not depends_on_what_is_faster(tree):
        record = world.ask(ReadRecord(world.call_id))
        assert record.view.result == expected(tree)
        assert world.stored.get("n", "0") == str([*kinds(tree)].count("count"))
        assert len(views) == 1 + [*kinds(tree)].count("child")


def replay(world: World, call_id: str) -> None:
    record = world.ask(ReadRecord(call_id))
    *past, end = record.events
    if isinstance(end, Completed):
        finish = finish_of(world.function_of(record.view), call_id, record.arguments, past)
        assert finish == Complete(end.value)
