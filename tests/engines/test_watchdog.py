"""The watchdog names the call whose body keeps the loop's thread, once, and sleeps while nothing runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.engines.embedded.watchdog import IDLE_LOOKS, LIMIT, PERIOD, Watchdog

PATIENCE = 10.0


class Log(logging.Handler):
    """What was logged; a blocked body waits here until it is its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._grew = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._grew:
            self.lines.append(record.getMessage())
            self._grew.notify_all()

    def wait_for_line(self, number: int) -> str:
        with self._grew:
            assert self._grew.wait_for(lambda: len(self.lines) >= number, PATIENCE)
            return self.lines[number - 1]


@pytest.fixture
def log() -> Iterator[Log]:
    logger = logging.getLogger("perdure")
    handler = Log()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def block_until_logged(log: Log, number: int = 1) -> str:
    return log.wait_for_line(number)


def test_a_body_that_blocks_is_logged_with_its_call_and_where_it_is(log: Log) -> None:
    watchdog = Watchdog()
    watchdog.entered("c-blocks")
    line = block_until_logged(log)
    watchdog.left()
    assert "c-blocks" in line
    assert "in block_until_logged" in line
    assert "return log.wait_for_line(number)" in line


def test_a_hold_is_logged_once_however_long_it_lasts(log: Log) -> None:
    long, other = Watchdog(), Watchdog()
    long.entered("c-long")
    for number in (1, 2, 3):  # another's holds begin and end meanwhile, so the thread has looked again
        block_until_logged(log, number)
        other.entered(f"c-other-{number}")
    block_until_logged(log, 4)
    other.left()
    long.left()
    assert sum("c-long" in line for line in log.lines) == 1


def test_each_hold_of_a_call_is_logged(log: Log) -> None:
    watchdog = Watchdog()
    for number in (1, 2):
        watchdog.entered("c-again")
        assert "c-again" in block_until_logged(log, number)
        watchdog.left()


def test_a_body_that_is_quick_is_not_logged(log: Log) -> None:
    watchdog = Watchdog()
    for _ in range(1000):
        watchdog.entered("c-quick")
        watchdog.left()
    watchdog.entered("c-slow")
    block_until_logged(log)
    watchdog.left()
    assert [line for line in log.lines if "c-quick" in line] == []


def test_a_body_that_holds_the_interpreter_is_logged_as_soon_as_another_thread_can_run(log: Log) -> None:
    numbers = 1_000_000
    began = time.monotonic()
    while (took := time.monotonic() - began) < 5 * LIMIT:  # how many take long enough here
        numbers *= 2
        began = time.monotonic()
        sum(range(numbers))
    watchdog = Watchdog()
    watchdog.entered("c-counts")
    sum(range(numbers))
    watchdog.left()
    assert "c-counts" in log.wait_for_line(1), took


def test_it_sleeps_while_nothing_runs_and_wakes_for_the_next_body(log: Log) -> None:
    watchdog = Watchdog()
    watchdog.entered("c-first")
    block_until_logged(log)
    watchdog.left()

    wait_until_asleep()

    watchdog.entered("c-next")
    assert "c-next" in block_until_logged(log, 2)
    watchdog.left()


def wait_until_asleep() -> None:
    """Until the thread was not woken for as long as IDLE_LOOKS of its periods; one that goes on looking fails."""
    give_up = time.monotonic() + PATIENCE
    woken, since = wake_ups(), time.monotonic()
    never = threading.Event()
    while time.monotonic() - since < IDLE_LOOKS * PERIOD:
        never.wait(PERIOD)
        assert time.monotonic() < give_up
        if (now := wake_ups()) != woken:
            woken, since = now, time.monotonic()


def wake_ups() -> int:
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "perdure-watchdog")
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
