"""What one process does reaches a call that lives in another: keys, signals, cancels, ends, new calls."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from tests.processes.company import PATIENCE, Company, OrderFailed

LOOKS = 20
"""So many times in a row something is waited for that a process would see at its next look at the file."""

WITHOUT_LOOKING = LOOKS / 2
"""Seconds. A process looks once a second, unless it is told: then all of it takes a fraction of one."""


async def test_a_hundred_who_ask_for_the_same_in_two_processes_get_the_outcome_of_one_execution(
    company: Company,
) -> None:
    one, other = await company.several(2)
    same = {"function": "one", "argument": 0.05, "key": "the same", "count": 50}
    crowds = [one.order("crowd", **same), other.order("crowd", **same)]
    results = [result for crowd in crowds for result in await crowd]
    assert len(results) == 100
    assert len(set(results)) == 1
    (only,) = [effect for effect in company.effects if effect.what == "began"]
    assert only.token == results[0]


async def test_signals_and_ends_travel_between_processes_without_waiting_for_the_next_look(company: Company) -> None:
    owner = await company.start(serves=["collects"])
    client = await company.start(work=False)
    call = await owner.ask("start", function="collects")
    await client.ask("seen", call=call, status="waiting")
    end = client.order("end", call=call)
    began = time.monotonic()
    for n in range(LOOKS):
        await client.ask("signal", call=call, name="item", value=n)
        await owner.says("began", call=call, name=f"item {n}")
    sent = time.monotonic()
    await client.ask("signal", call=call, name="item", value="stop")
    assert (await end)["result"] == list(range(LOOKS))
    assert time.monotonic() - began < WITHOUT_LOOKING
    print(f"\na signal to an owner elsewhere and the end back: {(time.monotonic() - sent) * 1000:.1f} ms")


async def test_a_cancel_reaches_an_owner_elsewhere_which_cleans_up(company: Company) -> None:
    owner, other = await company.several(2)
    call = await owner.ask("start", function="patient")
    await other.ask("seen", call=call, status="waiting")
    await other.ask("cancel", call=call, reason="enough")
    end = await other.ask("end", call=call)
    assert (end["status"], end["error"]) == ("cancelled", "PerdureError: cancelled: enough")
    assert [effect.pid for effect in company.began(call, "clean up")] == [owner.pid]
    with pytest.raises(OrderFailed, match="CallEnded"):
        await other.ask("cancel", call=call)


async def test_children_run_in_other_processes_and_their_ends_come_back(company: Company) -> None:
    parents = await company.start(serves=["family"])
    children = await company.start(serves=["one"])
    call = await parents.ask("start", function="family", argument=0)
    end = await parents.ask("end", call=call)
    assert end["status"] == "completed"
    began = [effect for effect in company.effects if effect.what == "began"]
    assert {effect.pid for effect in began} == {children.pid}
    assert sorted(end["result"]) == sorted(effect.token for effect in began)


async def test_a_call_goes_from_a_process_without_workers_to_the_one_that_has_its_function(company: Company) -> None:
    others = await company.start(serves=["ten", "naps"])
    client = await company.start(work=False)
    call = await client.ask("start", function="one", argument=0)
    end = client.order("end", call=call)
    # The workers that there are leave it alone, for all that they do meanwhile.
    assert (await client.ask("end", call=await client.ask("start", function="ten")))["status"] == "completed"
    assert company.began(call, "only") == []
    worker = await company.start(serves=["one"])
    assert (await end)["status"] == "completed"
    assert [effect.pid for effect in company.began(call, "only")] == [worker.pid]
    assert await others.ask("in_memory") == []
    # Once the worker is there, it is told.
    asked = time.monotonic()
    for _ in range(LOOKS):
        call = await client.ask("start", function="one", argument=0)
        assert (await client.ask("end", call=call))["status"] == "completed"
    assert time.monotonic() - asked < WITHOUT_LOOKING


async def test_who_was_stopped_until_the_call_was_kept_long_enough_hears_that_it_is_gone(company: Company) -> None:
    owner, client = await company.start(), await company.start(work=False)
    call = await owner.ask("start", function="patient", retain=0.001)
    await client.ask("seen", call=call, status="waiting")
    end = client.order("end", call=call)
    await client.ask("get", call=call)  # orders are taken in turn: it watches
    client.stop()
    await owner.ask("cancel", call=call)
    assert (await owner.ask("end", call=call))["status"] == "cancelled"
    await company.start()  # which removes what was kept long enough
    client.go_on()
    with pytest.raises(OrderFailed, match="CallNotFound"):
        async with asyncio.timeout(PATIENCE):
            await end


async def test_whoever_hears_no_hints_is_late_and_misses_nothing(company: Company) -> None:
    deaf = await company.start(deaf=True)
    client = await company.start(work=False, deaf=True)
    call = await client.ask("start", function="collects")
    for item in ("a", "b", "stop"):
        await client.ask("signal", call=call, name="item", value=item)
    assert (await client.ask("end", call=call))["result"] == ["a", "b"]
    assert [effect.pid for effect in company.began(call, "item a")] == [deaf.pid]


@pytest.mark.parametrize("count", [1, 2])
async def test_processes_with_nothing_to_do_use_no_cpu(company: Company, count: int) -> None:
    """Calls wait in them, for signals and for a timer that is far away."""
    actors = await company.several(count)
    for actor in actors:
        for _ in range(20):
            call = await actor.ask("start", function="collects")
            await actor.ask("seen", call=call, status="waiting")
        call = await actor.ask("start", function="naps", argument=3600)
        await actor.ask("seen", call=call, status="waiting")
    before = [await actor.ask("cpu") for actor in actors]
    await asyncio.sleep(IDLE)
    used = [await actor.ask("cpu") - was for actor, was in zip(actors, before, strict=True)]
    print(f"\n{count} idle processes: {', '.join(f'{seconds * 1000:.1f}' for seconds in used)} ms of CPU in {IDLE:g} s")
    assert max(used) < IDLE * MOST_CPU


IDLE = 3.0
"""Seconds of doing nothing, which is what is measured: no other condition could be waited for."""

MOST_CPU = 0.02
"""Of one core. An engine that is idle wakes once a second and asks SQLite for one number."""


async def test_a_step_that_forks_does_not_keep_its_killed_process_alive(company: Company) -> None:
    owner, sibling = await company.several(2)
    call = await owner.ask("start", function="forks", argument="gate")
    child: int = (await owner.says("forked"))["child"]
    try:
        await owner.says("began", call=call, name="held")
        await owner.kill()
        await sibling.says("began", call=call, name="held")
        os.kill(child, 0)  # it lives, and has all that was open in its parent
        await sibling.ask("open", gate="gate")
        assert (await sibling.ask("end", call=call))["status"] == "completed"
    finally:
        os.kill(child, 9)
