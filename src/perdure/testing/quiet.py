"""Finding out that nothing goes on any more, without waiting for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.errors import PerdureError
from perdure.testing.engine import TrialEngine

T = TypeVar("T")

PATIENCE = 5.0
"""Real seconds that a step gets which does real I/O."""

LOOK = 0.01
"""Real seconds between two looks at such a step: one that fails goes on waiting, for its next attempt."""

QUIET_ROUNDS = 200
"""Rounds of the event loop without a write, after which what still goes round is somebody's busy waiting."""


class StillRunning(PerdureError, TimeoutError):
    """A step of a trial took real time and no end."""

    def __init__(self, steps: list[str], seconds: float) -> None:
        self.steps = steps
        super().__init__(
            f"Still running after {seconds:g} real seconds: {', '.join(steps)}. A trial's clock does not move while "
            "steps run: stub a step that waits for something which does not come, and let a stub that is to time out "
            "raise TimeoutError."
        )


class NobodyMovesTheClock(PerdureError, TimeoutError):
    """A test waits for a call, and the call for time to pass."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        super().__init__(
            f"Call {call_id} waits, and nobody moves the clock of its trial: `await t.advance(…)` before its result is "
            "waited for, or send the signal that it waits for."
        )


async def result_of(engine: TrialEngine, call_id: str, result: Coroutine[Any, Any, T]) -> T:
    """The result of a call. Raises `NobodyMovesTheClock` instead of waiting for ever."""
    waiting = asyncio.get_running_loop().create_task(result)
    try:
        writes = -1
        while not waiting.done():
            if engine.ledger.writes == writes and not any(engine.running()):
                raise NobodyMovesTheClock(call_id)
            writes = engine.ledger.writes
            await asyncio.wait({waiting}, timeout=PATIENCE)
        return waiting.result()
    finally:
        waiting.cancel()


async def until_quiet(engine: TrialEngine) -> None:
    """Until the engine waits for its clock and for the outside only. Raises `StillRunning`."""
    loop = asyncio.get_running_loop()
    patience = loop.time() + PATIENCE
    while True:
        await _until_loop_is_idle(engine)
        if engine.is_recovering:
            await engine.recovered()
            continue
        running = list(engine.running())
        if not running:
            return
        # What else could still come comes from their I/O or threads: the loop had nothing left to do.
        tasks: list[asyncio.Task[Any]] = [task for call in running for task in call.steps_running]
        done, _ = await asyncio.wait(tasks, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        if not done and loop.time() >= patience:
            steps = [f"{name!r} of call {call.call_id}" for call in engine.running() for name in call.names_running]
            raise StillRunning(steps, PATIENCE)


async def _until_loop_is_idle(engine: TrialEngine) -> None:
    """All that the memory journal, bodies and clients in memory have to do is callbacks that are ready to run."""
    # asyncio's own loops have them in this queue; of another one we see only that nothing is written any more.
    ready: Any = getattr(asyncio.get_running_loop(), "_ready", None)
    writes, rounds = engine.ledger.writes, 0
    while rounds < QUIET_ROUNDS:
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return
        rounds += 1
        if engine.ledger.writes != writes:
            writes, rounds = engine.ledger.writes, 0
