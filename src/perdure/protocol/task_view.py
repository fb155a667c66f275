"""A call as a task: what both kinds of tasks, the extension's and those of 2025-11-25, say of it alike."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic_core import from_json

from perdure.core.codec import error_message
from perdure.engine import CallView, Engine, Question, QuestionKind
from perdure.protocol.answer import error_result, failure_of, tool_error

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]

SOONEST = timedelta(seconds=1)
LATEST = timedelta(minutes=1)
"""Between looks at a task: whatever it sleeps for, an answer or a signal may wake it before."""

FOR_ANSWERS = timedelta(seconds=5)
"""Between looks at a task that waits for its client's user."""


def shown_questions(view: CallView, asks: Collection[QuestionKind]) -> tuple[Question, ...]:
    """Those that the client which looks can be asked; the others wait for an answer from elsewhere."""
    return tuple(question for question in view.questions if question.kind in asks)


def status_message(view: CallView) -> str | None:
    """What the call said of itself last, or what became of it."""
    match view.status:
        case "stuck":
            return "The call is stuck: it needs an operator. Nothing of it is lost."
        case "cancelled":
            assert view.failure is not None
            return f"The call was {error_message(view.failure)}."
        case "running" | "waiting" if not view.text and view.questions:
            return "The call waits for an answer: " + "; ".join(question.message for question in view.questions)
        case _:
            return view.text or None


def tool_answer(view: CallView) -> dict[str, Any]:
    """What the request would have got, had it waited for the end. Raises the `MCPError` that the tool ended with."""
    if view.outcome is not None:
        return from_json(view.outcome)
    result = error_result(tool_error(view.tool, failure_of(view)))
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)


# --- times ----------------------------------------------------------------------------------------


def created_at(view: CallView) -> str:
    return _iso(view.created)


def updated_at(view: CallView) -> str:
    return _iso(view.updated or view.created)


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_to_live(view: CallView) -> int | None:
    """Milliseconds since its creation; None as long as it runs, and for one that is kept until an operator acts."""
    return None if view.expires is None else milliseconds(view.expires - view.created)


def poll_interval(view: CallView, now: datetime, *, is_asked: bool) -> int:
    """Milliseconds after which to look again: the older a call, or the longer it sleeps, the later."""
    if is_asked:
        return milliseconds(FOR_ANSWERS)
    if view.status == "stuck":
        return milliseconds(LATEST)
    later = (now - view.created) / 20 if view.wakes is None else view.wakes - now
    return milliseconds(min(max(later, SOONEST), LATEST))


def now_of(engine: Engine) -> datetime:
    return datetime.fromtimestamp(engine.request_clock.now(), UTC)


def milliseconds(span: timedelta) -> int:
    return max(1, round(span / timedelta(milliseconds=1)))
