"""What a request gets from its call: its end, a question for its client, or a way to come back for it."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.engine import CallView, Question


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
