"""Each call has one owner: several processes on one file, killed, stopped and released."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

import pytest

from tests.processes.company import Actor, Company, never_two_at_once

TAKEN_OVER_WITHIN = 5.0
"""Seconds: a sibling needs a few milliseconds; the machine may be busy."""


@pytest.mark.parametrize("count", [2, 4])
async def test_calls_of_several_processes_have_one_owner_each(company: Company, count: int) -> None:
    actors = await company.several(count)
    kinds = ["ten", "family", "naps", "whole_again"]
    started = [(actor, actor.order("start", function=kind, argument=0.001)) for actor in actors for kind in kinds * 5]
    calls = [(actor, await reply) for actor, reply in started]
    ends = [await actor.ask("end", call=call) for actor, call in calls]
    assert {end["status"] for end in ends} == {"completed"}
    never_two_at_once(company.effects)
    began = [effect.key for effect in company.effects if effect.what == "began"]
    assert len(began) == len(set(began)), "a step ran twice although nobody died"
    assert len(began) == count * 5 * (10 + 3 + 3 + 1)


@pytest.mark.parametrize("count", [2, 4])
async def test_siblings_take_over_the_calls_of_a_killed_owner(company: Company, count: int) -> None:
    owner, *siblings = await company.several(count)
    calls = [await owner.ask("start", function="watched", argument="gate") for _ in range(20)]
    for call in calls:
        await owner.says("began", call=call)
    killed = time.monotonic()
    await owner.kill()
    for sibling in siblings:
        await sibling.ask("open", gate="gate")
    for call in calls:
        assert (await siblings[0].ask("end", call=call))["status"] == "completed"
    never_two_at_once(company.effects, killed={owner.pid})
    for call in calls:
        first, again = company.began(call)
        assert first.pid == owner.pid
        assert again.pid in {sibling.pid for sibling in siblings}
        assert again.key == first.key
        assert again.epoch > first.epoch
        assert again.at - killed < TAKEN_OVER_WITHIN
    again = [company.began(call)[1].at - killed for call in calls]
    print(f"\n{count} processes: taken over {min(again) * 1000:.1f}–{max(again) * 1000:.1f} ms after the kill")


async def test_the_last_survivor_has_all_calls(company: Company) -> None:
    """Each death leaves a smaller ring."""
    actors = await company.several(4)
    calls = [await actor.ask("start", function="watched", argument="gate") for actor in actors]
    *victims, survivor = actors
    for actor, call in zip(actors, calls, strict=True):
        await actor.says("began", call=call)
    for victim in victims:
        await victim.kill()
    await survivor.ask("open", gate="gate")
    for call in calls:
        assert (await survivor.ask("end", call=call))["status"] == "completed"
    assert [effect.pid for call in calls for effect in company.began(call)][-1] == survivor.pid
    never_two_at_once(company.effects, killed={victim.pid for victim in victims})


async def test_a_process_that_hears_no_hints_sees_who_comes_and_takes_over_when_it_dies(company: Company) -> None:
    deaf = await company.start(deaf=True)
    owner = await company.start()
    call = await owner.ask("start", function="watched", argument="gate")
    await owner.says("began", call=call)
    await owner.kill()
    await deaf.says("began", call=call)
    await deaf.ask("open", gate="gate")
    assert (await deaf.ask("end", call=call))["status"] == "completed"


# --- stopped owners -------------------------------------------------------------------------------


async def stop_between_batches(owner: Actor, database: Path) -> None:
    """Stopped in a batch it would hold up all who write."""
    lock = os.open(f"{database}-lock", os.O_RDWR)
    try:
        async with asyncio.timeout(30):
            while True:
                owner.stop()
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner.go_on()
                    await asyncio.sleep(0)
                else:
                    fcntl.flock(lock, fcntl.LOCK_UN)
                    return
    finally:
        os.close(lock)


@pytest.mark.parametrize("deaf", [False, True], ids=["told", "not told"])
async def test_an_owner_that_lost_its_call_while_it_was_stopped_cannot_write(company: Company, deaf: bool) -> None:
    """An operator, from a process of his own, takes the call from an owner that hangs."""
    owner = await company.start(deaf=deaf)
    call = await owner.ask("start", function="watched", argument="gate")
    await owner.says("began", call=call)
    sibling, operator = await company.start(), await company.start(work=False)
    await stop_between_batches(owner, company.database)

    await operator.ask("release", call=call)
    await sibling.says("began", call=call)
    late = owner.order("open", gate="gate")
    owner.go_on()
    await late

    await owner.says("left", how="Parked")
    assert await owner.ask("in_memory") == []
    assert await company.events_of(operator, call) == ["Started"], "the late outcome was refused"
    assert company.began(call, "next") == [], "and nothing came of it"
    await sibling.ask("open", gate="gate")
    end = await operator.ask("end", call=call)
    first, second = company.began(call)
    assert (first.pid, second.pid) == (owner.pid, sibling.pid)
    (after,) = company.began(call, "next")
    assert (end["status"], end["result"]) == ("completed", [second.token, after.token])
    assert after.pid == sibling.pid
    assert await company.events_of(operator, call) == ["Started", "StepReturned", "StepReturned", "Completed"]
    assert (await owner.ask("end", call=call)) == end


@pytest.mark.parametrize("deaf", [False, True], ids=["told", "not told"])
async def test_an_owner_that_merely_waits_lets_go_of_what_is_released(company: Company, deaf: bool) -> None:
    """It would write nothing for days, and show an old view all the while."""
    owner = await company.start(deaf=deaf)
    call = await owner.ask("start", function="collects")
    await owner.ask("seen", call=call, status="waiting")
    sibling, operator = await company.start(), await company.start(work=False)
    await stop_between_batches(owner, company.database)
    await operator.ask("release", call=call)
    await company.until_true(lambda: sibling.ask("in_memory"))
    owner.go_on()
    await operator.ask("signal", call=call, name="item", value="stop")
    assert (await sibling.ask("end", call=call))["result"] == []
    assert (await owner.ask("end", call=call))["result"] == []
    assert await owner.ask("in_memory") == []


async def test_a_call_that_is_released_while_its_step_runs_is_not_run_twice_at_once_by_its_owner(
    company: Company,
) -> None:
    owner = await company.start()
    call = await owner.ask("start", function="watched", argument="gate")
    await owner.says("began", call=call)
    operator = await company.start(work=False)
    await operator.ask("release", call=call)
    await owner.says("left", how="Parked")
    await company.until(lambda: len(company.began(call)) == 2)
    await owner.ask("open", gate="gate")
    end = await operator.ask("end", call=call)
    first, second = company.began(call)
    assert end["result"][0] == second.token
    assert second.epoch > first.epoch
    assert first.token not in {effect.token for effect in company.effects if effect.what == "ended"}
