"""What was recorded and what was asked, in words for the error that shows both."""

from __future__ import annotations

from perdure.core.commands import Ask, AwaitAnswer, AwaitEnd
from perdure.core.events import Answered, ChildEnded, Fed, Signalled


def spell_event(event: Fed) -> str:
    kind = type(event).__name__
    key = getattr(event, "key", None)
    if key is None:
        return f"{kind} {event.name!r}" if isinstance(event, Signalled) else kind
    if isinstance(event, ChildEnded):
        return f"{kind} at {key}, call {event.call_id}"
    if isinstance(event, Answered):
        return f"{kind} at {key}, question {event.question!r}"
    return f"{kind}{_what(event)} at {key}"


def spell_ask(ask: Ask) -> str:
    if isinstance(ask, AwaitEnd):
        return f"the end of call {ask.call_id} at {ask.key}"
    if isinstance(ask, AwaitAnswer):
        return f"the answer to {ask.question!r} at {ask.key}"
    return f"{type(ask).__name__}{_what(ask)} at {ask.key}"


def _what(thing: object) -> str:
    name = getattr(thing, "name", None)
    return "" if name is None else f" {name!r} (arguments {getattr(thing, 'digest', '?')})"
