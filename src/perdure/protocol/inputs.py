"""Questions as the protocol sends them along with a reply, and the answers that come along with a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CreateMessageResult, CreateMessageResultWithTools, ElicitResult
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from perdure.calls import Calls
from perdure.engine import Answer, Engine, Question
from perdure.errors import AlreadyAnswered, CallEnded, CallNotFound, PayloadTooLarge

log = logging.getLogger("perdure")

LONGEST = 1.0
"""Seconds that the acknowledgement of an answer waits for its call."""

_SAMPLED: TypeAdapter[Any] = TypeAdapter(CreateMessageResult | CreateMessageResultWithTools)
_ELICITED: TypeAdapter[Any] = TypeAdapter(ElicitResult)


def input_requests(questions: Iterable[Question]) -> dict[str, dict[str, Any]]:
    """`inputRequests`, by the names of the questions, which are unique in a call."""
    return {question.name: {"method": method_of(question), "params": question.params} for question in questions}


def method_of(question: Question) -> str:
    return "sampling/createMessage" if question.kind == "sampling" else "elicitation/create"


def answers_in(responses: Mapping[str, Any], questions: Iterable[Question]) -> list[Answer]:
    """What `inputResponses` answer of these questions. Other names are ignored, as the specification asks.

    Raises an `MCPError` for a response that is no answer of its kind; whether it fits the question, the call finds out.
    """
    return [_answer(question, responses[question.name]) for question in questions if question.name in responses]


async def give(engine: Engine, call_id: str, answer: Answer) -> None:
    """Answer what a call asks; whoever was faster, or gave the same before, counts.

    Raises an `MCPError` for an answer that is larger than what is recorded.
    """
    try:
        with suppress(AlreadyAnswered, CallEnded, CallNotFound):
            await engine.deliver(call_id, answer)
    except PayloadTooLarge as error:
        raise MCPError(INVALID_PARAMS, str(error)) from error


async def until_taken(calls: Calls, call_id: str, names: Collection[str]) -> None:
    """Until the call no longer shows the questions that were answered, so that its client is not asked them again.

    An owner that hangs is not waited for: the answers are on disk.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST):
            async for view in calls.watch(call_id):
                if not any(question.name in names for question in view.questions):
                    return


def _answer(question: Question, response: Any) -> Answer:
    shape = _SAMPLED if question.kind == "sampling" else _ELICITED
    try:
        shape.validate_python(response)
    except ValidationError as error:
        fields = sorted({".".join(map(str, each["loc"][:2])) or "the whole" for each in error.errors()})
        what = f"The response to {question.name!r} is no result of {method_of(question)}"
        raise MCPError(INVALID_PARAMS, f"{what}: look at {', '.join(fields)}") from error
    try:
        return Answer(question.name, to_json(response))
    except ValueError as error:
        raise MCPError(INVALID_PARAMS, f"The response to {question.name!r} cannot be recorded: {error}") from error


def no_answer(question: Question, error: MCPError) -> Answer:
    """What a client that answers with an error, or with what is no answer, has answered. It is asked once: the next
    time would be the same.

    A person's question counts as dismissed; a model's has no such answer.
    """
    log.warning("a client did not answer %r: %s", question.name, error)
    if question.kind == "sampling":
        return Answer(question.name, to_json({"error": {"code": error.code, "message": error.message}}))
    return Answer(question.name, to_json({"action": "cancel"}))
