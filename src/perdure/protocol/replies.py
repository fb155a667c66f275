"""What a request gets from its call: its end, a question for its client, or a way to come back for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure.engine import CallView, Question, QuestionKind


@dataclass(frozen=True, slots=True)
class Finished:
    """The call has ended, or is stuck."""

    view: CallView


@dataclass(frozen=True, slots=True)
class NeedsInput:
    """The client is to answer, in a request of its own that names the call."""

    view: CallView
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class HandedOff:
    """The call goes on without the request, as a task or behind a handle."""

    view: CallView


Reply = Finished | NeedsInput | HandedOff


@dataclass(frozen=True, slots=True)
class Handoff:
    """The other way to a call's answer that a request has."""

    after: timedelta | None
    """How long it waits before it takes that way; None: for as long as it can."""
    answerable: frozenset[QuestionKind]
    """What can be answered on that way, whatever the client can be asked."""
    reply: Callable[[CallView], Any]
    """What the request gets for the call that goes on."""
