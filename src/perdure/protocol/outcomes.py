"""How what tools, prompts and resources return is recorded: as the SDK would have put it on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import FunctionResource
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import CallToolResult, GetPromptResult, InputRequiredResult, TextContent
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json, to_jsonable_python

from perdure.errors import NotRecordable
from perdure.tool import Outcome

_ASKED = NotRecordable(
    "InputRequiredResult",
    "a recorded call does not ask its client through the SDK. Say it in the return annotation, or durable=False.",
)


# --- tools ----------------------------------------------------------------------------------------


def tool_outcome(metadata: FuncMetadata, returns: Any) -> Outcome:
    async def encode(value: Any) -> bytes:
        result = metadata.convert_result(value)
        if isinstance(result, InputRequiredResult):
            raise _ASKED
        return result.model_dump_json(by_alias=True, exclude_none=True).encode()

    def value_of(payload: bytes) -> Any:
        result = tool_result(payload)
        if metadata.output_model is not None and result.structured_content is not None and _is_data(returns):
            structured: Any = result.structured_content
            value = structured["result"] if metadata.wrap_output else structured
            return TypeAdapter[Any](returns).validate_json(to_json(value))
        match result.content:
            case [TextContent(text=text)] if returns is str:
                return text
            case _:
                return result

    return Outcome(encode, value_of)


def tool_result(payload: bytes) -> CallToolResult:
    return CallToolResult.model_validate_json(payload)


def _is_data(returns: Any) -> bool:
    annotated = getattr(returns, "__origin__", returns)
    return not (isinstance(annotated, type) and issubclass(annotated, CallToolResult))


# --- prompts --------------------------------------------------------------------------------------


def prompt_outcome(name: str, description: str) -> Outcome:
    async def encode(value: Any) -> bytes:
        # A prompt of the SDK's own renders what ours has returned already.
        rendered = await Prompt.from_function(_returning(value), name).render(None, Context[Any, Any]())
        if isinstance(rendered, InputRequiredResult):
            raise _ASKED
        messages = to_jsonable_python(rendered)
        result = GetPromptResult(description=description, messages=messages)
        return result.model_dump_json(by_alias=True, exclude_none=True).encode()

    return Outcome(encode, GetPromptResult.model_validate_json)


def prompt_messages(payload: bytes) -> list[dict[str, Any]]:
    """For the SDK to render once more; it takes its own results only as plain data."""
    return cast("list[dict[str, Any]]", from_json(payload)["messages"])


# --- resources ------------------------------------------------------------------------------------


def resource_outcome(uri: str) -> Outcome:
    async def encode(value: Any) -> bytes:
        if isinstance(value, InputRequiredResult):
            raise _ASKED
        content = await FunctionResource(uri=uri, fn=_returning(value)).read()
        return to_json({"text": content} if isinstance(content, str) else {"blob": content}, bytes_mode="base64")

    return Outcome(encode, resource_content)


_BYTES = TypeAdapter(bytes, config={"val_json_bytes": "base64"})


def resource_content(payload: bytes) -> str | bytes:
    content = from_json(payload)
    if "text" in content:
        return content["text"]
    return _BYTES.validate_json(to_json(content["blob"]))


def _returning(value: Any) -> Callable[[], Any]:
    async def returned() -> Any:
        return value

    return returned
