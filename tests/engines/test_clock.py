"""The time that an engine lives by: never backwards, alarms in order, long waits in short naps."""

from __future__ import annotations

import asyncio
import time

import pytest

from perdure.engines.embedded import clock as clock_module
from perdure.engines.embedded.clock import AlarmQueue, SystemClock


class Machine:
    """The machine's two clocks, in a test's hands: the standard library's functions that are asked for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 50.0
        monkeypatch.setattr(clock_module.time, "time", lambda: self.wall)
        monkeypatch.setattr(clock_module.time, "monotonic", lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def noted(names: list[str], name: str) -> None:
    names.append(name)


# --- now ------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_back_goes_on_from_where_it_was(machine: Machine) -> None:
    clock = SystemClock()
    machine.passes(10)
    before = clock.now()
    machine.wall -= 3600
    assert clock.now() == before
    machine.passes(5)
    assert clock.now() == before + 5
    machine.passes(5)
    assert clock.now() == before + 10


@pytest.mark.parametrize("step", [0.0001, 0.0009, 0.0011, 0.5])
async def test_however_small_the_steps_back_are_time_never_goes_back(machine: Machine, step: float) -> None:
    clock = SystemClock()
    last = clock.now()
    for _ in range(100):
        machine.wall -= step
        now = clock.now()
        assert now >= last
        last = now


async def test_a_clock_that_is_set_forward_is_believed(machine: Machine) -> None:
    """As after a suspend, which the monotonic clock does not see."""
    clock = SystemClock()
    before = clock.now()
    machine.wall += 3600
    assert clock.now() == before + 3600


async def test_a_clock_that_catches_up_after_it_was_set_back_is_the_walls_again(machine: Machine) -> None:
    clock = SystemClock()
    machine.wall -= 60
    clock.now()
    machine.wall += 100
    assert clock.now() == machine.wall


# --- alarms ---------------------------------------------------------------------------------------


def rung(queue: AlarmQueue, now: float) -> None:
    while alarm := queue.pop_due(now):
        assert alarm.ring is not None
        alarm.ring()


def test_alarms_ring_in_the_order_of_their_times_and_equal_ones_as_they_were_set() -> None:
    queue, names = AlarmQueue(), list[str]()
    for when, name in [(3, "d"), (1, "a"), (2, "b"), (2, "c"), (4, "not yet")]:
        queue.add(when, lambda name=name: noted(names, name))
    rung(queue, 3)
    assert names == ["a", "b", "c", "d"]
    assert queue.next_time() == 4


def test_a_cancelled_alarm_does_not_ring_and_nothing_waits_for_it() -> None:
    queue, names = AlarmQueue(), list[str]()
    first = queue.add(1, lambda: noted(names, "first"))
    queue.add(2, lambda: noted(names, "second"))
    first.cancel()
    first.cancel()
    assert queue.next_time() == 2
    rung(queue, 5)
    assert names == ["second"]
    assert queue.next_time() is None


def test_alarms_that_are_cancelled_long_before_their_time_do_not_pile_up() -> None:
    """A deadline in an hour, cancelled as its call ends, ten thousand times."""
    queue, names = AlarmQueue(), list[str]()
    queue.add(1, lambda: noted(names, "kept"))
    for n in range(10_000):
        queue.add(3600 + n, lambda: noted(names, "never")).cancel()
    assert len(queue) < 500
    rung(queue, 5000)
    assert names == ["kept"]


def test_an_alarm_that_rang_can_be_cancelled_without_harm_to_others() -> None:
    queue, names = AlarmQueue(), list[str]()
    done = [queue.add(1, lambda: noted(names, "rang")) for _ in range(500)]
    rung(queue, 1)
    queue.add(2, lambda: noted(names, "later"))
    for alarm in done:
        alarm.cancel()
    rung(queue, 2)
    assert names == ["rang"] * 500 + ["later"]


# --- on the loop ----------------------------------------------------------------------------------


async def test_the_system_clock_rings_what_is_due_earliest_first() -> None:
    clock, names, done = SystemClock(), list[str](), asyncio.Event()
    now = clock.now()
    clock.alarm(now + 0.04, done.set)
    clock.alarm(now + 0.02, lambda: noted(names, "second"))
    clock.alarm(now + 0.01, lambda: noted(names, "first"))
    clock.alarm(now + 0.03, lambda: noted(names, "cancelled")).cancel()
    async with asyncio.timeout(10):
        await done.wait()
    assert names == ["first", "second"]
    assert clock.now() >= now + 0.04
    clock.close()


async def test_an_alarm_may_set_another_and_one_that_raises_does_not_silence_the_rest() -> None:
    clock, done = SystemClock(), asyncio.Event()
    loop, errors = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def fails() -> None:
        raise ValueError("in an alarm")

    now = clock.now()
    clock.alarm(now, fails)
    clock.alarm(now, lambda: clock.alarm(now, done.set) and None)
    async with asyncio.timeout(10):
        await done.wait()
    loop.set_exception_handler(None)
    assert [str(error) for error in errors] == ["in an alarm"]
    clock.close()


async def test_an_alarm_that_is_set_while_another_rings_holds_up_none_that_is_due_before_it() -> None:
    clock = SystemClock()
    order: list[str] = []
    done = asyncio.Event()
    clock.alarm(clock.now() + 0.05, done.set)

    def set_a_later_one() -> None:
        order.append("first")
        clock.alarm(clock.now() + 600, lambda: noted(order, "far off"))

    clock.alarm(clock.now(), set_a_later_one)
    async with asyncio.timeout(10):
        await done.wait()
    assert order == ["first"]
    clock.close()


async def test_a_long_wait_looks_at_the_wall_clock_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop sleeps: the loop's own clock may not have passed, but the alarm is due."""
    monkeypatch.setattr(clock_module, "LONGEST_NAP", 0.01)
    wall, began = time.time, time.monotonic()
    clock, done = SystemClock(), asyncio.Event()
    clock.alarm(clock.now() + 3600, done.set)
    monkeypatch.setattr(clock_module.time, "time", lambda: wall() + 7200)
    async with asyncio.timeout(10):
        await done.wait()
    assert time.monotonic() - began < 3600
    clock.close()


async def test_a_closed_clock_rings_no_more() -> None:
    clock, names = SystemClock(), list[str]()
    clock.alarm(clock.now(), lambda: noted(names, "never"))
    clock.close()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, later.set)
    await later.wait()
    assert names == []
