"""What a body asks a person or a model: the question as clients see it, and what is made of an answer.

Answers are JSON in the shape that MCP gives them, wherever they come from: a client, a program, the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar, cast

from mcp.server.elicitation import (
    AcceptedElicitation,
    AcceptedUrlElicitation,
    CancelledElicitation,
    DeclinedElicitation,
    ElicitationResult,
    UrlElicitationResult,
    render_elicitation_schema,
)
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ModelPreferences,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from perdure.core.codec import digest, name_of
from perdure.engine import Question, QuestionAsk
from perdure.errors import InputUnavailable, Refused
from perdure.sampler import Sampler
from perdure.step import Step, step

M = TypeVar("M", bound=BaseModel)

MOST_REFUSED = 20
"""Answers in a row that do not fit, after which nobody is asked any more: a program may give the same one for ever."""

IfNot = Literal["wait", "refuse"]


class Unfit(Exception):
    """An answer is none to its question; the message says why, for whoever answers again."""


# --- to a person ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form(Generic[M]):
    """Raises `TypeError` for a model that clients have no form for: its fields are to be plain."""

    name: str
    message: str
    model: type[M]
    if_unable: IfNot

    @property
    def digest(self) -> str:
        return digest((self.message, name_of(self.model)), {})

    def ask(self, refused: str | None) -> QuestionAsk:
        """`refused`: why the last answer was."""
        schema = _form_of(self.model)
        message = self.message if refused is None else f"{self.message}\n(The last answer was refused: {refused})"
        params = {"mode": "form", "message": message, "requestedSchema": schema}
        return QuestionAsk(Question(self.name, "form", message, schema, None, params), self.if_unable, "wait")

    def read(self, answer: bytes) -> ElicitationResult[M]:
        said = _elicited(answer)
        if said["action"] != "accept":
            return _not_accepted(said["action"])
        try:
            return AcceptedElicitation[M](data=self.model.model_validate(said.get("content")))
        except ValidationError as error:
            raise Unfit(_in_words(error)) from error


# Making it takes longer than all else of a question, and a replay asks again.
_form_of = lru_cache(maxsize=256)(render_elicitation_schema)


@dataclass(frozen=True)
class Visit:
    """To open a page, where something happens that is not for the client's eyes."""

    message: str
    url: str
    elicitation_id: str
    if_unable: IfNot
    name: str = "visit"

    @property
    def digest(self) -> str:
        return digest((self.message, self.url), {})

    def ask(self, refused: str | None) -> QuestionAsk:
        params = {"mode": "url", "message": self.message, "url": self.url, "elicitationId": self.elicitation_id}
        return QuestionAsk(Question(self.name, "url", self.message, None, self.url, params), self.if_unable, "wait")

    def read(self, answer: bytes) -> UrlElicitationResult:
        action = _elicited(answer)["action"]
        return AcceptedUrlElicitation() if action == "accept" else _not_accepted(action)


def _elicited(answer: bytes) -> dict[str, Any]:
    said: Any = from_json(answer)
    if not isinstance(said, dict) or said.get("action") not in ("accept", "decline", "cancel"):  # pyright: ignore[reportUnknownMemberType]  from_json knows no types
        raise Unfit('it is to be {"action": "accept" | "decline" | "cancel", "content": …}')
    return cast("dict[str, Any]", said)


def _not_accepted(action: str) -> DeclinedElicitation | CancelledElicitation:
    return DeclinedElicitation() if action == "decline" else CancelledElicitation()


def _in_words(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors(include_url=False)
    )


# --- to a model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """What a model said; `text` is all of its text."""

    text: str
    result: CreateMessageResult | CreateMessageResultWithTools
    """The latter where its content is a list, which a client may send whether tools were offered or not."""


_SAID: TypeAdapter[CreateMessageResult | CreateMessageResultWithTools] = TypeAdapter(
    CreateMessageResult | CreateMessageResultWithTools
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    messages: list[SamplingMessage]
    max_tokens: int
    system_prompt: str | None
    temperature: float | None
    model_preferences: ModelPreferences | None
    if_unable: IfNot
    if_nobody: IfNot
    name: str = "sample"

    @property
    def digest(self) -> str:
        return digest((self._params,), {})

    @property
    def _params(self) -> dict[str, Any]:
        return CreateMessageRequestParams(
            messages=self.messages,
            max_tokens=self.max_tokens,
            system_prompt=self.system_prompt,
            temperature=self.temperature,
            model_preferences=self.model_preferences,
        ).model_dump(mode="json", by_alias=True, exclude_none=True)

    def ask(self, refused: str | None) -> QuestionAsk:
        message = "\n".join(text_of(message.content) for message in self.messages)
        question = Question(self.name, "sampling", message, None, None, self._params)
        return QuestionAsk(question, self.if_unable, self.if_nobody)

    def read(self, answer: bytes) -> Sampled:
        """Raises `InputUnavailable` if the client would not: that is how it declines, and asking again is no use."""
        said: Any = from_json(answer)
        match said:
            case {"error": {"message": str(message)}}:
                raise InputUnavailable(f"The client did not ask its model: {message}")
            case _:
                pass
        try:
            return sampled(_SAID.validate_json(answer))
        except ValidationError as error:
            raise Unfit(_in_words(error)) from error


def sampling_step(sampler: Sampler, sampling: Sampling) -> Step[[list[SamplingMessage]], CreateMessageResult]:
    """To ask the server's own model."""

    async def sample(messages: list[SamplingMessage]) -> CreateMessageResult:
        return await sampler(
            messages,
            max_tokens=sampling.max_tokens,
            system_prompt=sampling.system_prompt,
            temperature=sampling.temperature,
            model_preferences=sampling.model_preferences,
        )

    return step(sample)


def sampled(result: CreateMessageResult | CreateMessageResultWithTools) -> Sampled:
    return Sampled(text_of(result.content), result)


def as_messages(messages: str | Sequence[SamplingMessage]) -> list[SamplingMessage]:
    if isinstance(messages, str):
        return [SamplingMessage(role="user", content=TextContent(type="text", text=messages))]
    return [*messages]


def text_of(content: Any) -> str:
    blocks: list[Any] = cast("list[Any]", content) if isinstance(content, list) else [content]
    return "".join(block.text for block in blocks if isinstance(block, TextContent))


# --- an answer from elsewhere ---------------------------------------------------------------------


def answer_to(question: Question, value: Any) -> bytes:
    """What a program or a person at the command line says, in MCP's shape. Raises `Refused` if it does not fit."""
    if question.kind == "sampling":
        return _spoken(value)
    match value:
        case DeclinedElicitation() | CancelledElicitation():
            return to_json({"action": value.action})
        case AcceptedElicitation() | AcceptedUrlElicitation():
            content: Any = getattr(cast("Any", value), "data", None)
        case _:
            content = value
    if question.kind == "url":
        return to_json({"action": "accept"})
    content = to_jsonable_python(content)
    if not isinstance(content, dict):
        raise Refused(f"The answer to {question.name!r} is an object with the fields of its form.")
    if question.schema is not None:
        from perdure.schema import check_json

        # A form's schema knows no null, also for what may be None in its model: there it is what was left out.
        given = {name: each for name, each in cast("dict[str, Any]", content).items() if each is not None}
        check_json(f"The question {question.name!r}", question.schema, to_json(given))
    return to_json({"action": "accept", "content": content})


def _spoken(value: Any) -> bytes:
    """In a model's place."""
    match value:
        case DeclinedElicitation() | CancelledElicitation():
            raise Refused("A question to a model has no way to be declined: answer it, or cancel the call.")
        case CreateMessageResult():
            result = value
        case str():
            content = TextContent(type="text", text=value)
            result = CreateMessageResult(role="assistant", content=content, model="a person")
        case _:
            try:
                result = CreateMessageResult.model_validate(value)
            except ValidationError as error:
                raise Refused(f"The answer to a question to a model is a text. {_in_words(error)}") from error
    return result.model_dump_json(by_alias=True, exclude_none=True).encode()
