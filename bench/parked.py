"""A file with a million parked calls: what its server keeps in memory, and how fast any of them wakes.

Filled by writes of starts and parkings through the journal, in big commits: running a million bodies would take
longer than all other benches together. `python -m bench.parked fill|serve FILE CALLS`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from bench.child import running
from bench.functions import NUMBER, body, request_for, step
from bench.promises import Effort, Measured
from bench.rounds import ms
from perdure.core.call import new_call_id, new_seed
from perdure.effects import Effects
from perdure.engine import Request, Signal, SignalSpec
from perdure.engines.embedded.engine import PYTHON, Embedded
from perdure.engines.embedded.journal import Append, Leave, Register, StartCall, Started, commit
from perdure.engines.embedded.sqlite import SqliteJournal

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
    async with running("bench.parked", "serve", file, calls) as serving:
        by_signal, worst_signal, by_timer, worst_timer = map(float, (await serving.hear("woken")).split())
        resident = _resident(serving.pid)
    yield Measured("parked-memory", f"{resident / 1e6:.0f} MB at most, {int(calls):,} calls", resident <= MOST_RESIDENT)
    figure = (
        f"by signal {ms(by_signal)}, worst of {SIGNALLED} {ms(worst_signal)}; "
        f"timers late by {ms(by_timer)}, worst {ms(worst_timer)}"
    )
    yield Measured("parked-wake", figure, max(worst_signal, worst_timer) <= LONGEST_WAKE)


def _resident(pid: int) -> float:
    """The most that the process ever had in memory, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


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

IN_FLIGHT = 10_000


async def fill(file: str, calls: int) -> None:
    journal = SqliteJournal(file, durability="relaxed")
    await journal.open()
    process = await commit(journal, Register("bench", 0, 0, time.time()))
    waiting: list[str] = []
    for _ in range(0, calls, 2 * IN_FLIGHT):
        later = time.time() + A_YEAR
        sleeping = (_park(journal, process, _sleep_until(later), later) for _ in range(IN_FLIGHT))
        await asyncio.gather(*sleeping)
        for_signals = (_park(journal, process, request_for(WAITS, signals=GO), None) for _ in range(IN_FLIGHT))
        waiting += await asyncio.gather(*for_signals)
    _chosen(file).write_text("\n".join(random.sample(waiting, SIGNALLED)))
    soon = time.time() + SOON
    for number in range(SIGNALLED):
        due = soon + number * BETWEEN
        await _park(journal, process, _sleep_until(due), due)
    await commit(journal, Leave(process))
    await journal.close()
    print("filled", file=sys.stderr, flush=True)


def _chosen(file: str) -> Path:
    """The calls that are to be woken by a signal."""
    return Path(f"{file}.chosen")


def _sleep_until(due: float) -> Request:
    request = request_for(SLEEPS)
    return Request(
        function=request.function,
        tool=request.tool,
        arguments=b"%d" % (due * 1e6),
        digest=request.digest,
        caller=request.caller,
    )


async def _park(journal: SqliteJournal, process: int, request: Request, wake_at: float | None) -> str:
    now = time.time()
    start = StartCall(
        request=request, call_id=new_call_id(), process=process, own=True, at=now, seed=new_seed(), python=PYTHON
    )
    started: Started = await commit(journal, start)
    assert started.held is not None
    n, epoch = started.held.n, started.held.epoch
    park = Append(n=n, epoch=epoch, at=now, events=(), status="waiting", park=True, wake_at=wake_at)
    await commit(journal, park)
    return start.call_id


# --- serving --------------------------------------------------------------------------------------


async def serve(file: str, _calls: int) -> None:
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
        print("woken", *figures, file=sys.stderr, flush=True)
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
    asyncio.run({"fill": fill, "serve": serve}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
