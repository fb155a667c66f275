"""A file with a million parked calls: what its server keeps in memory, and how fast any of them wakes.

Filled with the journal's own writes of starts and parkings, many in one transaction: running a million bodies would
take longer than all other benches together. `python -m bench.parked fill|serve FILE CALLS`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.child import running, say
from bench.functions import NUMBER, body, request_for, step
from bench.promises import Effort, Measured
from bench.rounds import ms
from perdure.core.call import PYTHON, new_call_id, new_seed
from perdure.effects import Effects
from perdure.engine import Request, Signal, SignalSpec
from perdure.engines.embedded.connections import connect_writer
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import Append, Leave, Register, StartCall
from perdure.engines.embedded.ledger import PAYLOAD_LIMIT, Ledger, perform

CALLS = 1_000_000
QUICK = 50_000

MOST_RESIDENT = 300e6
LONGEST_WAKE = 20e-3

SIGNALLED = 200
"""How many are woken by a signal, and as many by their timers."""

SOON = 15.0
"""Seconds from the end of filling until the first timer is due: by then the file is served."""

BETWEEN = 0.05
"""Seconds from timer to timer of those."""

A_YEAR = 365 * 86400

GO = (SignalSpec("go", once=False, schema={}),)


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file = effort.folder / "parked.db"
    calls = str(effort.of(CALLS, QUICK))
    async with running("bench.parked", "fill", file, calls) as filling:
        await filling.hear("filled")
    async with running("bench.parked", "serve", file) as serving:
        by_signal, worst_signal, by_timer, worst_timer = map(float, (await serving.hear("woken")).split())
        resident = serving.most_resident()
    yield Measured("parked-memory", f"{resident / 1e6:.0f} MB at most, {int(calls):,} calls", resident <= MOST_RESIDENT)
    figure = (
        f"by signal {ms(by_signal)}, worst of {SIGNALLED} {ms(worst_signal)}; "
        f"timers late by {ms(by_timer)}, worst {ms(worst_timer)}"
    )
    yield Measured("parked-wake", figure, max(worst_signal, worst_timer) <= LONGEST_WAKE)


# --- the functions --------------------------------------------------------------------------------

late: dict[float, float] = {}
"""How late each timer was, by when it was due."""


async def woken(due: int) -> int:
    late[due / 1e6] = time.time() - due / 1e6
    return due


async def sleeps(effects: Effects, due: int) -> int:
    """Until `due`, in microseconds of POSIX time."""
    await asyncio.sleep(due / 1e6 - effects.now())
    return await step(effects, woken, due)


async def waits(effects: Effects, number: int) -> int:
    return await effects.receive("go", NUMBER.decode)


SLEEPS = body(sleeps)
WAITS = body(waits)


# --- filling --------------------------------------------------------------------------------------

PAIRS_AT_ONCE = 50_000
"""Of one transaction, at most: ids are random, so that each checkpoint writes most pages of their index."""


def fill(file: str, calls: int) -> None:
    connection = connect_writer(Path(file), "relaxed")
    ledger = Ledger(connection, time.time, PAYLOAD_LIMIT)
    process = perform(ledger, Register("bench", 0, 0, time.time()))
    connection.execute("PRAGMA cache_size = -500000")
    waiting: list[str] = []
    pairs = min(calls // 2, PAIRS_AT_ONCE)
    for _ in range(0, calls, 2 * pairs):
        connection.execute("BEGIN")
        for _ in range(pairs):
            _park(ledger, process, _sleep_until(time.time() + A_YEAR), time.time() + A_YEAR)
            waiting.append(_park(ledger, process, request_for(WAITS, signals=GO), None))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _chosen(file).write_text("\n".join(random.sample(waiting, SIGNALLED)))
    soon = time.time() + SOON
    connection.execute("BEGIN")
    for number in range(SIGNALLED):
        due = soon + number * BETWEEN
        _park(ledger, process, _sleep_until(due), due)
    perform(ledger, Leave(process))
    connection.execute("COMMIT")
    connection.close()
    say("filled")


def _chosen(file: str) -> Path:
    """The calls that are to be woken by a signal."""
    return Path(f"{file}.chosen")


def _sleep_until(due: float) -> Request:
    return replace(request_for(SLEEPS), arguments=b"%d" % (due * 1e6))


def _park(ledger: Ledger, process: int, request: Request, wake_at: float | None) -> str:
    now = time.time()
    start = StartCall(
        request=request, call_id=new_call_id(), process=process, own=True, at=now, seed=new_seed(), python=PYTHON
    )
    held = perform(ledger, start).held
    assert held is not None
    park = Append(n=held.n, epoch=held.epoch, at=now, events=(), status="waiting", park=True, wake_at=wake_at)
    perform(ledger, park)
    return start.call_id


# --- serving --------------------------------------------------------------------------------------


async def serve(file: str) -> None:
    engine = Embedded(file)
    async with engine.serve((SLEEPS, WAITS)):
        opened = time.time()
        by_signal = [await _wake(engine, call_id) for call_id in _chosen(file).read_text().split()]
        while len(late) < SIGNALLED:
            await asyncio.sleep(0.1)
        by_timer = [seconds for due, seconds in late.items() if due > opened]
        if len(by_timer) < SIGNALLED / 2:
            raise RuntimeError(f"{SIGNALLED - len(by_timer)} timers were due before the file was open")
        figures = median(by_signal), max(by_signal), median(by_timer), max(by_timer)
        say(f"woken {' '.join(map(str, figures))}")
        await asyncio.Future()


async def _wake(engine: Embedded, call_id: str) -> float:
    """Seconds from the sending of its signal to its end."""
    began = time.perf_counter()
    await engine.deliver(call_id, Signal("go", b"1"))
    async for view in engine.watch(call_id):
        if view.is_over:
            return time.perf_counter() - began
    raise RuntimeError(f"{call_id} ended unseen")


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(serve(sys.argv[2]))
