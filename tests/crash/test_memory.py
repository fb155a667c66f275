"""On the memory journal: each call of the corpus, in a process that dies before and after each write it makes."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from perdure.engines.embedded.ledger import crash_points
from perdure.engines.embedded.memory import MemoryJournal
from tests.crash.corpus import SCENARIOS, Scenario, sequential
from tests.crash.memory import Died, InTheDark, Place, Side, live
from tests.crash.outside import InMemory, outside
from tests.engines.functions import body, request_for

SIDES: tuple[Side, Side] = ("before", "after")

ELSEWHERE = {"Leave": "a process that is going runs no call: test_a_process_that_dies_while_it_leaves_is_taken_over"}
"""Writes that no scenario makes before it is over."""


def name_of(scenario: Scenario) -> str:
    return scenario.name


every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)


@every_scenario
async def test_a_crash_at_any_write_changes_nothing_and_runs_nothing_again(scenario: Scenario) -> None:
    calm = await live(scenario)
    for number in range(len(calm.names)):
        for side in SIDES:
            await live(scenario, (number, side))


@every_scenario
async def test_a_crash_of_the_recovery_changes_nothing_either(scenario: Scenario) -> None:
    half = len((await live(scenario)).names) // 2
    for later in range(1, 7):
        await live(scenario, (half, "before"), (half + later, SIDES[later % 2]))


async def test_every_kind_of_write_has_been_crashed_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    places: dict[str, tuple[Scenario, tuple[Place, ...]]] = {}
    for scenario in SCENARIOS:
        calm = await live(scenario)
        death: Place = (len(calm.names) - 2, "before")
        shaken = await live(scenario, death)
        for deaths, names in (((), calm.names), ((death,), shaken.names)):
            for number, name in enumerate(names):
                if not deaths or number > death[0]:
                    places.setdefault(name, (scenario, (*deaths, (number, "before"))))
    crashed: Counter[tuple[str, Side]] = Counter()
    for scenario, (*deaths, (number, _)) in places.values():
        for side in SIDES:
            crashed += (await live(scenario, *deaths, (number, side))).crashed
    with capsys.disabled():
        lines = (f"{name}: {crashed[name, 'before']} before, {crashed[name, 'after']} after" for name in sorted(places))
        print("", "crashed in memory at", *lines, sep="\n  ")
    wanted = {(name, side) for name in crash_points() - set(ELSEWHERE) for side in SIDES}
    assert wanted - set(crashed) == set()
    assert set(ELSEWHERE) <= crash_points()


@pytest.mark.parametrize("when", SIDES)
async def test_a_process_that_dies_while_it_leaves_is_taken_over(when: Side) -> None:
    outside.memory = InMemory()
    died = asyncio.Event()

    def probe(name: str, side: Side) -> None:
        if (name, side) == ("Leave", when):
            died.set()
            raise Died

    journal = MemoryJournal(probe=probe)
    function = body(sequential)

    bystanders = asyncio.all_tasks()
    engine = InTheDark(journal, None)
    started: list[str] = []

    async def leaves() -> None:
        async with engine.serve([function]):
            started.append((await engine.start(request_for(function, 3))).call_id)

    leaving = asyncio.ensure_future(leaves())
    await asyncio.wait_for(died.wait(), 10)
    while remains := asyncio.all_tasks() - bystanders:
        for task in remains:
            task.cancel()
        await asyncio.sleep(0)
    assert leaving.cancelled()

    journal.probe = None
    again = InTheDark(journal, None)
    async with again.serve([function]), asyncio.timeout(10):
        async for view in again.watch(started[0]):
            if view.is_over:
                assert view.result == ["n0", "n1", "n2"]
