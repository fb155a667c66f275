"""`crash_everywhere`: one scenario, again and again, with a crash at another place each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Literal, NamedTuple, TypeVar

from perdure.server import DurableMCP
from perdure.testing.engine import TrialEngine
from perdure.testing.trial import Trial, next_second, trial_on

T = TypeVar("T")
Side = Literal["before", "after"]

HOUSEKEEPING = ("Register", "Offer", "Leave", "TakeOver", "RemoveExpired", "LetGo")
"""Writes about no call in particular: a crash at one is as good as one before the next."""


class Died(Exception):
    """What stops the journal."""


class Place(NamedTuple):
    """Where a process dies: before or after its n-th write."""

    number: int
    side: Side
    write: str

    def __str__(self) -> str:
        return f"a crash {self.side} write {self.number}, {self.write}"


async def crash_everywhere(mcp: DurableMCP[Any], scenario: Callable[[Trial], Awaitable[T]]) -> list[T]:
    """What the scenario returns without a crash, and with one before and after each write of the journal.

    Each run is a trial of its own, and all begin at the same time. The scenario goes on waiting while its server
    recovers. What a run raises has a note that says where its crash was.
    """
    began = next_second()
    places, result = await _run(mcp, scenario, began, None)
    results = [result]
    for place in places:
        try:
            results.append((await _run(mcp, scenario, began, place))[1])
        except Exception as error:
            error.add_note(f"In this run there was {place} (of {places[-1].number}). Without a crash it ended well.")
            raise
    return results


async def _run(
    mcp: DurableMCP[Any], scenario: Callable[[Trial], Awaitable[T]], began: float, death: Place | None
) -> tuple[list[Place], T]:
    engine = TrialEngine(began)
    watch = _Watch(engine, death)
    async with trial_on(mcp, engine) as trial:
        engine.ledger.watch = watch
        try:
            result = await scenario(trial)
        finally:
            engine.ledger.watch = None
    return watch.places, result


class _Watch:
    """Counts the writes of a run, and lets the process die at one of them."""

    def __init__(self, engine: TrialEngine, death: Place | None) -> None:
        self._passed: list[Place] = []
        self._engine = engine
        self._death = death
        self._number = 0

    @property
    def places(self) -> list[Place]:
        """Where it makes a difference: a claim that found nothing has no "after", and its "before" is another's."""
        written = {place.number for place in self._passed if place.side == "after"}
        return [place for place in self._passed if place.number in written]

    def __call__(self, write: str, side: Side) -> None:
        if write.startswith(HOUSEKEEPING):
            return
        self._number += side == "before"
        self._passed.append(Place(self._number, side, write))
        death = self._death
        if death is not None and (self._number, side) == (death.number, death.side):
            self._death = None
            asyncio.get_running_loop().call_soon(self._engine.begin_recovery, context=Context())
            raise Died
