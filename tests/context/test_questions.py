"""What a body asks a person or a model, answered from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from mcp.server.elicitation import AcceptedElicitation, CancelledElicitation, DeclinedElicitation
from mcp_types import CreateMessageResult, ModelPreferences, SamplingMessage, TextContent
from pydantic import BaseModel, Field, field_validator

from perdure import (
    AlreadyAnswered,
    CallEnded,
    CallFailed,
    CallNotFound,
    CallView,
    DurableContext,
    DurableMCP,
    Sampled,
)
from perdure.engine import Answer
from perdure.engines.embedded.engine import Embedded
from perdure.errors import PayloadTooLarge, Refused
from perdure.testing import trial
from tests.context.house import ANN, BOB, House


class Topic(BaseModel):
    topic: str = Field(description="What it is about")
    stories: int = 5

    @field_validator("topic")
    @classmethod
    def _is_lower(cls, topic: str) -> str:
        if topic != topic.lower():
            raise ValueError("in lower case, please")
        return topic


@pytest.fixture
def house() -> House:
    return House()


def asks(view: CallView) -> bool:
    return bool(view.questions)


async def asked(house: House, call_id: str, wanted: Callable[[CallView], bool] = asks) -> CallView:
    async with asyncio.timeout(10):
        async for view in house.engine.watch(call_id):
            if wanted(view):
                return view
    raise AssertionError("the call ended without asking")


def a_form(house: House) -> str:
    async def ask(ctx: DurableContext) -> Any:
        match await ctx.elicit("Which topic?", Topic, name="topic"):
            case AcceptedElicitation(data=data):
                return [data.topic, data.stories]
            case other:
                return other.action

    return house.body(ask)


# --- people ---------------------------------------------------------------------------------------


async def test_a_form_comes_back_as_the_model(house: House) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        (question,) = (await asked(house, call.id)).questions
        assert (question.name, question.kind, question.message) == ("topic", "form", "Which topic?")
        assert question.schema is not None
        assert question.schema["required"] == ["topic"]
        await house.calls.answer(call.id, {"topic": "python"})
        assert await call.result() == ["python", 5]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (Topic(topic="python", stories=2), ["python", 2]),
        (AcceptedElicitation[Topic](data=Topic(topic="python")), ["python", 5]),
        (DeclinedElicitation(), "decline"),
        (CancelledElicitation(), "cancel"),
    ],
)
async def test_what_counts_as_an_answer(house: House, value: Any, result: Any) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        await house.calls.answer(call.id, value, question="topic")
        assert await call.result() == result


class Visit(BaseModel):
    city: str
    nights: int | None = None


@pytest.mark.parametrize("value", [Visit(city="Rome"), {"city": "Rome"}, {"city": "Rome", "nights": None}])
async def test_what_may_be_none_may_be_left_out_of_an_answer(house: House, value: Any) -> None:
    async def visit(ctx: DurableContext) -> Any:
        said = await ctx.elicit("Where to?", Visit)
        return said.data.model_dump() if said.action == "accept" else said.action

    tool = house.body(visit)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        with pytest.raises(Refused, match="required"):
            await house.calls.answer(call.id, {"city": None})
        await house.calls.answer(call.id, value)
        assert await call.result() == {"city": "Rome", "nights": None}


@pytest.mark.parametrize("value", [{"stories": 5}, {"topic": 5}, "python", ["python"]])
async def test_an_answer_that_its_form_does_not_take_is_refused_where_it_is_given(house: House, value: Any) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        with pytest.raises(Refused):
            await house.calls.answer(call.id, value)
        assert len((await house.calls.get(call.id)).questions) == 1


async def test_what_no_schema_can_say_is_asked_again_with_the_reason(house: House) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        await house.calls.answer(call.id, {"topic": "PYTHON"})
        again = await asked(house, call.id, lambda view: any(each.name == "topic-2" for each in view.questions))
        assert "in lower case, please" in again.questions[0].message
        await house.calls.answer(call.id, {"topic": "python"})
        assert await call.result() == ["python", 5]


@pytest.mark.parametrize("value", [b"null", b"[]", b'"yes"', b'{"action":"perhaps"}', b'{"content":{}}'])
async def test_what_is_no_answer_at_all_is_asked_again(house: House, value: bytes) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        await house.engine.deliver(call.id, Answer("topic", value))
        await asked(house, call.id, lambda view: any(each.name == "topic-2" for each in view.questions))
        await house.calls.answer(call.id, {"topic": "python"})
        assert await call.result() == ["python", 5]


async def test_a_program_that_answers_wrongly_for_ever_does_not_keep_the_call_busy_for_ever(house: House) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool)
        wrong, answered = b'{"action":"accept","content":{"topic":"PYTHON"}}', set[str]()
        async with asyncio.timeout(10):
            async for view in house.engine.watch(call.id):
                for question in view.questions:
                    if question.name not in answered:
                        answered.add(question.name)
                        await house.engine.deliver(call.id, Answer(question.name, wrong))
        with pytest.raises(CallFailed, match="in lower case"):
            await call.result()


async def test_the_second_answer_is_told_that_it_is(house: House) -> None:
    async def twice(ctx: DurableContext) -> str:
        await ctx.elicit("Which topic?", Topic, name="first")
        await ctx.elicit("Which topic?", Topic, name="second")
        return "done"

    tool = house.body(twice)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id)
        await house.calls.answer(call.id, DeclinedElicitation(), question="first")
        await asked(house, call.id, lambda view: [each.name for each in view.questions] == ["second"])
        with pytest.raises(AlreadyAnswered):
            await house.calls.answer(call.id, {"topic": "x"}, question="first")
        with pytest.raises(Refused, match="It asks: second"):
            await house.calls.answer(call.id, {"topic": "x"}, question="third")
        await house.calls.answer(call.id, {"topic": "x"})
        await call.result()
        with pytest.raises(CallEnded):
            await house.calls.answer(call.id, {"topic": "x"})


async def test_several_questions_at_once_want_names(house: House) -> None:
    async def both(ctx: DurableContext) -> Any:
        said = await asyncio.gather(ctx.elicit("One?", Topic, name="one"), ctx.elicit("Other?", Topic, name="other"))
        return [each.action for each in said]

    tool = house.body(both)
    async with house.serving():
        call = await house.begin(tool)
        await asked(house, call.id, lambda view: len(view.questions) == 2)
        with pytest.raises(Refused, match="one, other"):
            await house.calls.answer(call.id, {"topic": "x"})
        await house.calls.answer(call.id, {"topic": "x"}, question="other")
        await house.calls.answer(call.id, DeclinedElicitation(), question="one")
        assert await call.result() == ["decline", "accept"]


async def test_nobody_answers_another_s_question(house: House) -> None:
    tool = a_form(house)
    async with house.serving():
        call = await house.begin(tool, by=ANN)
        await asked(house, call.id)
        with pytest.raises(CallNotFound):
            await house.calls.of(BOB).answer(call.id, {"topic": "x"})


async def test_a_page_to_open(house: House) -> None:
    async def visit(ctx: DurableContext) -> str:
        return (await ctx.elicit_url("Sign in", "https://example.com/in", "e-1")).action

    tool = house.body(visit)
    async with house.serving():
        call = await house.begin(tool)
        (question,) = (await asked(house, call.id)).questions
        assert (question.kind, question.url, question.params["elicitationId"]) == (
            "url",
            "https://example.com/in",
            "e-1",
        )
        await house.calls.answer(call.id, None)
        assert await call.result() == "accept"


async def test_a_question_that_is_too_large_to_be_shown_raises_in_the_body(house: House) -> None:
    house.engine = Embedded("memory:", payload_limit=1000)

    async def ask(ctx: DurableContext) -> Any:
        try:
            return await ctx.elicit("which? " * 200, Topic)
        except PayloadTooLarge as error:
            return str(error).split(" has")[0]

    async with house.serving():
        assert await house.ask(house.body(ask)) == "The question 'question'"


async def test_a_model_that_no_client_has_a_form_for_is_the_author_s_error(house: House) -> None:
    class Nested(BaseModel):
        topic: Topic

    async def ask(ctx: DurableContext) -> None:
        await ctx.elicit("Which?", Nested)

    tool = house.body(ask)
    async with house.serving():
        with pytest.raises(CallFailed, match="PrimitiveSchemaDefinition"):
            await house.ask(tool)


# --- time -----------------------------------------------------------------------------------------


def impatient() -> DurableMCP[Any]:
    mcp = DurableMCP("questions")

    @mcp.tool()
    async def in_time(ctx: DurableContext) -> str:
        try:
            return (await ctx.elicit("Which?", Topic, timeout=timedelta(days=5))).action
        except TimeoutError:
            return "late"

    @mcp.tool()
    async def with_default(ctx: DurableContext) -> str:
        said = await ctx.elicit("Which?", Topic, timeout=timedelta(days=5), default=Topic(topic="none"))
        assert isinstance(said, AcceptedElicitation)
        return said.data.topic

    @mcp.tool()
    async def forever(ctx: DurableContext) -> str:
        return (await ctx.elicit("Which?", Topic)).action

    return mcp


@pytest.mark.parametrize(("tool", "result"), [("in_time", "late"), ("with_default", "none")])
async def test_five_days_pass_without_an_answer(tool: str, result: str) -> None:
    async with trial(impatient()) as t:
        call = await t.start(tool)
        await t.advance(timedelta(days=4, hours=23))
        assert len((await t.calls.get(call.id)).questions) == 1
        await t.advance(timedelta(hours=1))
        assert await call.result() == result
        assert (await t.calls.get(call.id)).questions == ()


async def test_an_answer_on_the_fifth_day_that_is_read_on_the_sixth_counts() -> None:
    async with trial(impatient()) as t:
        call = await t.start("in_time")
        await t.advance(timedelta(days=4, hours=23))
        await t.calls.answer(call.id, {"topic": "x"})
        await t.crash()
        await t.advance(timedelta(days=1))
        assert await call.result() == "accept"


async def test_a_question_without_a_time_out_waits_for_seven_days() -> None:
    async with trial(impatient()) as t:
        call = await t.start("forever")
        await t.advance(timedelta(days=6, hours=23))
        assert len((await t.calls.get(call.id)).questions) == 1
        await t.advance(timedelta(hours=1))
        with pytest.raises(CallFailed, match="TimeoutError"):
            await call.result()


# --- models ---------------------------------------------------------------------------------------


class Model:
    """A model of the server's own that fails first."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.heard: list[Any] = []

    async def __call__(
        self,
        messages: Sequence[SamplingMessage],
        *,
        max_tokens: int,
        system_prompt: str | None,
        temperature: float | None,
        model_preferences: ModelPreferences | None,
    ) -> CreateMessageResult:
        self.heard.append((messages[0].content, max_tokens, system_prompt, temperature, model_preferences))
        if len(self.heard) <= self.failures:
            raise ConnectionError("busy")
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="short"), model="own")


def summarizing(sampler: Model | None) -> DurableMCP[Any]:
    mcp = DurableMCP("summaries", sampler=sampler)

    @mcp.tool()
    async def summarize(ctx: DurableContext) -> str:
        said: Sampled = await ctx.sample("Summarize this", max_tokens=7, system_prompt="Be brief", temperature=0)
        await ctx.sleep(timedelta(hours=1))
        return f"{said.text} by {said.result.model}"

    return mcp


async def test_the_server_s_own_model_is_asked_once_and_its_answer_recorded() -> None:
    model = Model(failures=2)
    async with trial(summarizing(model)) as t:
        call = await t.start("summarize")
        await t.advance(timedelta(minutes=10))
        await t.crash()
        await t.advance(timedelta(hours=1))
        assert await call.result() == "short by own"
    assert len(model.heard) == 3
    assert model.heard[-1] == (TextContent(type="text", text="Summarize this"), 7, "Be brief", 0, None)


async def test_the_server_s_own_model_has_no_more_time_than_the_question() -> None:
    model = Model(failures=2)
    mcp = DurableMCP("summaries", sampler=model)

    @mcp.tool()
    async def summarize(ctx: DurableContext) -> str:
        try:
            return (await ctx.sample("Summarize this", timeout=timedelta(milliseconds=100))).text
        except TimeoutError:
            return "too late"

    async with trial(mcp) as t:
        call = await t.start("summarize")
        await t.advance(timedelta(minutes=10))
        assert await call.result() == "too late"
    assert len(model.heard) == 1


async def test_without_any_model_a_person_may_answer_in_its_place() -> None:
    async with trial(summarizing(None)) as t:
        call = await t.start("summarize")
        await t.settle()
        (question,) = (await t.calls.get(call.id)).questions
        assert (question.kind, question.message) == ("sampling", "Summarize this")
        assert question.params["maxTokens"] == 7
        with pytest.raises(Refused, match="no way to be declined"):
            await t.calls.answer(call.id, DeclinedElicitation())
        await t.calls.answer(call.id, "a person's words")
        await t.advance(timedelta(hours=1))
        assert await call.result() == "a person's words by a person"
