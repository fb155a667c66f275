"""The journal of a trial: in memory, with places where the process may die, and with an outside that outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from perdure.effects import running_frame
from perdure.engines.embedded.journal import (
    Append,
    AppendChild,
    AppendStore,
    Claim,
    Deliver,
    NoteAttempt,
    Register,
    ReleaseCall,
    RetryCall,
    StartCall,
    Started,
    Then,
    UseStoreOnce,
    Write,
)
from perdure.engines.embedded.memory import MemoryJournal
from perdure.engines.embedded.writer import Probe

FROM_OUTSIDE = (StartCall, Deliver, RetryCall, ReleaseCall, UseStoreOnce)
"""What tests and clients ask for. They outlive the process, and ask again when it is back."""


class TrialJournal(MemoryJournal):
    """`probe` may be set; where it raises, everything stops until the journal is opened again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock, probe=self._passes)
        self.writes = 0
        """How many began, in all lives."""
        self.watch: Probe | None = None
        """Called with a description of each write, before and after it."""
        self._asked: dict[int, _Asked] = {}
        self._writing: Write[Any] | None = None
        self._done: tuple[Any, BaseException | None] | None = None
        self._process = 0

    def write(self, write: Write[Any], then: Then) -> None:
        if not isinstance(write, FROM_OUTSIDE) or _asked_by_a_step():
            self._write(write, then)
            return
        asked = _Asked(write, then, self._life)
        self._asked[id(asked)] = asked

        def told(result: Any, error: BaseException | None) -> None:
            self._asked.pop(id(asked), None)
            then(result, error)

        self._done = None
        self._write(write, told)
        asked.done = self._done

    def _write(self, write: Write[Any], then: Then) -> None:
        self.writes += 1
        self._writing = write
        super().write(write, then)

    def _passes(self, _: str, side: Any) -> None:
        if self.watch is not None and self._writing is not None:
            self.watch(spell(self._writing), side)

    def _perform(self, write: Write[Any]) -> tuple[Any, BaseException | None]:
        self._done = super()._perform(write)
        if isinstance(write, Register):
            self._process = self._done[0]
        elif isinstance(write, Claim) and not self._done[0]:
            self._writing = None  # it found nothing: a death after it is one before the next write
        return self._done

    def resume_outside(self) -> None:
        """Those who asked a former life for something ask again, and get what that life did for them."""
        loop = asyncio.get_running_loop()
        for key, asked in list(self._asked.items()):
            if asked.life == self._life:
                continue
            del self._asked[key]
            if asked.done is None:
                self.write(self._for_this_life(asked.write), asked.then)
            else:
                result, error = asked.done
                # It belonged to the process that died; whoever is due claims it.
                loop.call_soon(asked.then, replace(result, held=None) if isinstance(result, Started) else result, error)

    def _for_this_life(self, write: Write[Any]) -> Write[Any]:
        return replace(write, process=self._process, own=False) if isinstance(write, StartCall) else write


@dataclass(eq=False, slots=True)
class _Asked:
    """A write from outside whose outcome was not told yet; `done` once it was performed."""

    write: Write[Any]
    then: Then
    life: int
    done: tuple[Any, BaseException | None] | None = None


def _asked_by_a_step() -> bool:
    """A step dies with its process, and so does what it asks for."""
    frame = running_frame.get()
    return frame is not None and frame.call_id is not None


def spell(write: Write[Any]) -> str:
    """A write in the words of the journal: what somebody needs who looks for the place of a crash."""
    match write:
        case Append():
            parts = [_spell_event(event) for event in (*write.events, *([write.end] if write.end else ()))]
            parts = parts or (["leaving memory"] if write.park else ["what is shown"])
            return f"Append of {', '.join(parts)}"
        case AppendStore() | AppendChild():
            return f"{type(write).__name__} of {write.name!r}"
        case StartCall():
            return f"StartCall of {write.request.tool!r}"
        case NoteAttempt():
            return f"NoteAttempt {write.attempt.count} of {write.attempt.name!r}"
        case Deliver():
            name = getattr(write.delivery, "name", None)
            return f"Deliver of {type(write.delivery).__name__}{'' if name is None else f' {name!r}'}"
        case _:
            return type(write).__name__


def _spell_event(event: object) -> str:
    name = getattr(event, "name", None)
    return type(event).__name__ if name is None else f"{type(event).__name__} {name!r}"
