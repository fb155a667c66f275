"""Asks whose outcome only the database knows: what is written for one, and what that came to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perdure.core import commands as c
from perdure.core.call import child_call_id
from perdure.core.events import Asked, ChildRefused, ChildStarted, StoreReturned
from perdure.engine import Place
from perdure.engines.embedded.journal import AppendChild, AppendJoin, AppendQuestion, AppendStore, Held
from perdure.engines.embedded.unit import Awaited

DecidedUnit = AppendStore | AppendChild | AppendJoin | AppendQuestion
DecidedEvent = StoreReturned | ChildStarted | ChildRefused | Asked


def unit_for(command: c.Decided, held: Held, place: str, at: float) -> DecidedUnit:
    """`place` is what makes the ask unlike all others of its call."""
    parts: dict[str, Any] = {
        "n": held.n,
        "epoch": held.epoch,
        "at": at,
        "key": command.key,
        "name": command.name,
        "digest": command.digest,
    }
    match command:
        case c.UseStore():
            return AppendStore(store=command.store, operation=command.operation, **parts)
        case c.StartChild():
            request = replace(
                command.options,
                caller=held.caller,
                principal=held.principal,
                waiting=None,
                parent=Place(held.view.id, command.key),
                call_id=child_call_id(held.view.id, place),
            )
            return AppendChild(request=request, detached=command.detached, **parts)
        case c.JoinCall():
            return AppendJoin(call_id=command.call_id, **parts)
        case c.AskQuestion():
            return AppendQuestion(ask=command.question, **parts)


def event_of(command: c.Decided, result: Any, at: float) -> DecidedEvent:
    """From what the journal answered to the unit."""
    match command:
        case c.UseStore():
            return StoreReturned(command.key, command.name, command.digest, result.to_bytes(), at)
        case c.StartChild() | c.JoinCall():
            return result
        case c.AskQuestion():
            return result.asked


def awaited_after(command: c.Decided, event: DecidedEvent) -> Awaited | None:
    """What the body waits for from then on."""
    match event:
        case ChildStarted() if isinstance(command, c.JoinCall):
            return c.AwaitEnd(event.key, event.call_id, own=False)
        case ChildStarted() if isinstance(command, c.StartChild) and not command.detached:
            return c.AwaitEnd(event.key, event.call_id, own=True)
        case Asked() if event.error is None:
            return c.AwaitAnswer(event.key, event.question)
        case _:
            return None
