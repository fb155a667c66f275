"""Handles: how clients that know no tasks come back for a call, by tools that their models can use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from mcp.server.elicitation import CancelledElicitation, DeclinedElicitation
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ContentBlock, TextContent, ToolAnnotations
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import from_json, to_json

from perdure.calls import Calls
from perdure.context import current_step
from perdure.engine import CallView, Question
from perdure.errors import CallNotFound
from perdure.protocol.answer import FOR_CLIENTS, error_result, failure_of, tool_error
from perdure.protocol.inputs import until_taken
from perdure.protocol.outcomes import tool_result
from perdure.protocol.reception import Reception
from perdure.protocol.task_view import status_message

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_WAIT = 3600.0
"""Seconds. Most clients give up long before."""

WAIT = 30.0
"""Seconds: half of the shortest time-out that clients are known to have."""

MOST = 100
"""Calls that are looked at together."""


# --- the handle -----------------------------------------------------------------------------------


class Handle(BaseModel):
    """The call goes on; its result is fetched with its id."""

    call_id: str
    status: Literal["working"] = "working"
    next: str
    """What to do, in words for a model."""


def handle_of(view: CallView) -> CallToolResult:
    call_id = view.id
    again = (
        f"Do not call {view.tool} again for the same thing: it would be done twice."
        if view.key is None
        else f"There is no need to call {view.tool} again: for the same thing it is the same call."
    )
    what = (
        f"{view.tool} goes on, and its result is not there yet. Its call_id is {call_id}. "
        f'To wait for the result, call await_calls with call_ids ["{call_id}"]; to look without waiting, call '
        f"check_calls. {again}"
    )
    handle = Handle(call_id=call_id, next=what)
    return CallToolResult(content=[TextContent(type="text", text=what)], structured_content=handle.model_dump())


def or_handle(schema: dict[str, Any]) -> dict[str, Any]:
    """The output schema of a tool that gives what it says, or a handle."""
    own = {name: value for name, value in schema.items() if name != "$defs"}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {"type": "object", "anyOf": [own, Handle.model_json_schema()], **definitions}


# --- what the tools show --------------------------------------------------------------------------


class QuestionState(BaseModel):
    """What a call asks, and how `answer_call` takes the answer."""

    question: str
    kind: str
    message: str
    answer_schema: dict[str, Any] | None = None
    url: str | None = None


class CallState(BaseModel):
    call_id: str
    status: Literal["working", "input_required", "completed", "failed", "cancelled", "stuck", "not_found"]
    tool: str | None = None
    message: str | None = None
    questions: list[QuestionState] = []
    result: Any = None


class CallStates(BaseModel):
    calls: list[CallState]


def state_of(view: CallView) -> CallState:
    state = CallState(call_id=view.id, status="working", tool=view.tool, message=status_message(view))
    match view.status:
        case "completed" | "failed" | "cancelled":
            state.status, state.result = _end(view)
        case "stuck":
            state.status = "stuck"
        case "running" | "waiting":
            state.questions = [_question_state(question) for question in view.questions]
            state.status = "input_required" if view.questions else "working"
    return state


def _question_state(question: Question) -> QuestionState:
    return QuestionState(
        question=question.name,
        kind=question.kind,
        message=question.message,
        answer_schema=question.schema,
        url=question.url,
    )


def _end(view: CallView) -> tuple[Literal["completed", "failed", "cancelled"], Any]:
    if view.status == "cancelled":
        return "cancelled", None
    if view.kind != "tool" and view.outcome is not None:
        return "completed", view.result
    result = _result(view)
    words = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    return (
        "failed" if result.is_error else "completed",
        words if result.structured_content is None else result.structured_content,
    )


def _result(view: CallView) -> CallToolResult:
    if view.outcome is not None:
        return tool_result(view.outcome)
    try:
        return error_result(tool_error(view.tool, failure_of(view)))
    except MCPError as error:
        return CallToolResult(content=[TextContent(type="text", text=error.message)], is_error=True)


def _shown(views: dict[str, CallView | None]) -> CallToolResult:
    """What is no text goes beside it as it is: an image is to be seen."""
    states = CallStates(
        calls=[
            CallState(call_id=call_id, status="not_found") if view is None else state_of(view)
            for call_id, view in views.items()
        ]
    )
    content: list[ContentBlock] = [TextContent(type="text", text=states.model_dump_json(exclude_defaults=True))]
    for view in views.values():
        if view is not None and view.kind == "tool" and view.outcome is not None:
            content += [block for block in _result(view).content if not isinstance(block, TextContent)]
    return CallToolResult(content=content, structured_content=states.model_dump(mode="json", exclude_defaults=True))


# --- the tools ------------------------------------------------------------------------------------


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else "" if answer is None else to_json(answer).decode()


def _read(answer: str) -> Any:
    try:
        return from_json(answer)
    except ValueError:
        return answer


# A `str` for pydantic: in any other parameter the SDK reads what looks like JSON, and a model may be asked for that.
Given = Annotated[
    str,
    BeforeValidator(_as_text),
    WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": True}, {"type": "string"}]}),
    Field(description="The fields of the form, or a text where a model is asked."),
]

CallIds = Annotated[list[str], Field(min_length=1, max_length=MOST, description="The call_id of each call.")]


def _clearly(
    tool: Callable[Concatenate[HandleTools, P], Awaitable[T]],
) -> Callable[Concatenate[HandleTools, P], Coroutine[Any, Any, T]]:
    """Errors of ours that are meant for clients keep their words."""

    @wraps(tool)
    async def run(self: HandleTools, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(self, *args, **kwargs)
        except FOR_CLIENTS as error:
            raise ToolError(str(error)) from error

    return run


class Listing(Protocol):
    """The server that lists them."""

    def add_tool(
        self, fn: Callable[..., Any], *, annotations: ToolAnnotations | None = None, durable: bool = True
    ) -> None: ...


class HandleTools:
    """Ordinary tools: whoever calls them reaches the calls of nobody else."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def add_to(self, server: Listing) -> None:
        looks = ToolAnnotations(read_only_hint=True)
        acts = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
        ends = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
        server.add_tool(self.check_calls, annotations=looks, durable=False)
        server.add_tool(self.await_calls, annotations=looks, durable=False)
        server.add_tool(self.cancel_call, annotations=ends, durable=False)
        server.add_tool(self.answer_call, annotations=acts, durable=False)

    async def check_calls(self, call_ids: CallIds) -> Annotated[CallToolResult, CallStates]:
        """Look at calls that go on, without waiting: their state, what they ask, the results of those that ended."""
        return _shown({call_id: await _look(call_id) for call_id in call_ids})

    async def await_calls(
        self, call_ids: CallIds, seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT)] = WAIT
    ) -> Annotated[CallToolResult, CallStates]:
        """Wait until each of these calls has ended or asks something, for some seconds at most; then look at them."""
        calls = current_step().calls
        clock = self._reception.engine.request_clock
        try:
            async with self._reception.looking(), asyncio.timeout(None) as scope, asyncio.TaskGroup() as waiting:
                alarm = clock.alarm(clock.now() + seconds, lambda: scope.reschedule(0))
                try:
                    tasks = [waiting.create_task(_settled(calls, call_id)) for call_id in call_ids]
                    await asyncio.wait(tasks)
                finally:
                    alarm.cancel()
        except TimeoutError:
            pass
        return _shown({call_id: await _look(call_id) for call_id in call_ids})

    @_clearly
    async def cancel_call(self, call_id: str, reason: str = "") -> str:
        """Cancel a call that goes on. It may still have to clean up."""
        await current_step().calls.cancel(call_id, reason=reason)
        return f"Call {call_id} will be cancelled."

    @_clearly
    async def answer_call(
        self,
        call_id: str,
        answer: Given = "",
        question: Annotated[str | None, Field(description="Its name, needed where there are several.")] = None,
        action: Literal["accept", "decline", "cancel"] = "accept",
    ) -> str:
        """Answer what a call asks. Ask the user first: the question is theirs."""
        calls = current_step().calls
        asked = [each for each in (await calls.get(call_id)).questions if question in (None, each.name)]
        if action == "accept":
            value = answer or None if any(each.kind == "sampling" for each in asked) else _read(answer)
        else:
            value = DeclinedElicitation() if action == "decline" else CancelledElicitation()
        await calls.answer(call_id, value, question=question)
        await until_taken(calls, call_id, [each.name for each in asked])
        return f"Call {call_id} has the answer."


async def _look(call_id: str) -> CallView | None:
    try:
        return await current_step().calls.get(call_id)
    except CallNotFound:
        return None


async def _settled(calls: Calls, call_id: str) -> None:
    try:
        async for view in calls.watch(call_id):
            if view.status == "stuck" or view.questions:
                return
    except CallNotFound:
        return
