"""Functions of every shape, to be registered on the official server and on ours, which must answer alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.mcpserver.prompts.base import AssistantMessage, Message, UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from pydantic import AfterValidator, BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from perdure import DurableContext

Shape = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What is done to a function before it is registered."""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    name: str
    height: float | None = None
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Forecast(TypedDict):
    summary: str
    rain: NotRequired[float]


def twice(value: int) -> int:
    """Not idempotent: whoever validates twice doubles twice."""
    return value * 2


async def plain(text: str) -> str:
    return text


async def number(x: float = 5) -> str:
    return f"{x}"


async def choices(colour: Colour, mode: Literal["a", "b"] = "a", tags: list[str] | None = None) -> list[str]:
    return [colour.value, mode, *(tags or ())]


async def model(place: Place) -> Place:
    return place.model_copy(update={"height": 1.5})


async def mapping(n: int) -> dict[str, int | None]:
    return {"n": n, "none": None}


async def typed(rain: float) -> Forecast:
    return {"summary": "wet", "rain": rain}


async def nothing() -> None:
    return None


async def unannotated(a, b="b"):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]  the point
    return {"a": a, "b": b}  # pyright: ignore[reportUnknownVariableType]


async def picture() -> Image:
    return Image(data=b"\x89PNG", format="png")


async def content() -> list[TextContent]:
    return [TextContent(type="text", text="one"), TextContent(type="text", text="two")]


async def built(fails: bool) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="built")], is_error=fails, _meta={"by": "hand"})


async def doubled(value: Annotated[int, AfterValidator(twice)]) -> int:
    return value


async def secret(password: SecretStr) -> int:
    return len(password.get_secret_value())


async def bounded(value: Annotated[int, Field(ge=0, le=9, description="A digit")]) -> int:
    return value


async def wrong_result() -> int:
    return "not a number"  # pyright: ignore[reportReturnType]  what the SDK finds out is the point


async def refuses() -> str:
    raise ToolError("there is no such place")


async def crashes() -> str:
    raise ValueError("the password is hunter2")


async def protocol_error() -> str:
    raise MCPError(code=-32042, message="pay first", data={"price": 3})


async def not_found() -> str:
    raise ResourceNotFoundError("no such file")


TOOLS: tuple[Callable[..., Any], ...] = (  # pyright: ignore[reportUnknownVariableType]  one has no annotations
    plain,
    number,
    choices,
    model,
    mapping,
    typed,
    nothing,
    unannotated,
    picture,
    content,
    built,
    doubled,
    secret,
    bounded,
    wrong_result,
    refuses,
    crashes,
    protocol_error,
    not_found,
)

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"text": "hello"}),
    ("plain", {"text": "[1]"}),
    ("plain", {"text": "hello", "unknown": 1}),
    ("plain", {}),
    ("number", {}),
    ("number", {"x": 5}),
    ("number", {"x": "7.5"}),
    ("choices", {"colour": "red"}),
    ("choices", {"colour": "blue", "mode": "b", "tags": '["x", "y"]'}),
    ("choices", {"colour": "green"}),
    ("model", {"place": {"name": "Oslo"}}),
    ("model", {"place": '{"name": "Oslo", "at": "2027-01-01T00:00:00Z"}'}),
    ("mapping", {"n": 1}),
    ("typed", {"rain": 0.5}),
    ("nothing", {}),
    ("unannotated", {"a": [1, None]}),
    ("picture", {}),
    ("content", {}),
    ("built", {"fails": False}),
    ("built", {"fails": True}),
    ("doubled", {"value": 3}),
    ("secret", {"password": "swordfish"}),
    ("bounded", {"value": 9}),
    ("bounded", {"value": 10}),
    ("wrong_result", {}),
    ("refuses", {}),
    ("crashes", {}),
    ("protocol_error", {}),
    ("not_found", {}),
    ("no_such_tool", {}),
]


# --- prompts --------------------------------------------------------------------------------------


async def greet(name: str, politely: bool = False) -> str:
    """Greet somebody."""
    return f"{'Dear' if politely else 'Hi'} {name}"


async def dialogue(topic: str) -> list[Message]:
    return [UserMessage(f"What is {topic}?"), AssistantMessage("I wonder.")]


async def from_dict() -> dict[str, Any]:
    return {"role": "assistant", "content": {"type": "text", "text": "as a dict"}}


async def shown() -> Image:
    return Image(data=b"\x89PNG", format="png")


async def breaks(name: str) -> str:
    raise ValueError(name)


PROMPTS = (greet, dialogue, from_dict, shown, breaks)

RENDERINGS: list[tuple[str, dict[str, str]]] = [
    ("greet", {"name": "Ann"}),
    ("greet", {"name": "Ann", "politely": "true"}),
    ("greet", {"name": "Ann", "politely": "perhaps"}),
    ("greet", {}),
    ("dialogue", {"topic": "time"}),
    ("from_dict", {}),
    ("shown", {}),
    ("breaks", {"name": "x"}),
    ("no_such_prompt", {}),
]


# --- resources ------------------------------------------------------------------------------------


async def motd() -> str:
    return "be kind"


async def raw() -> bytes:
    return b"\x00\xff"


async def table() -> dict[str, int]:
    return {"one": 1}


async def page(number: int, size: int = 10) -> str:
    return f"{number} of {size}"


async def file(path: str) -> str:
    if path == "secret":
        raise ResourceNotFoundError("nothing here")
    if path == "locked":
        raise ResourceError("locked")
    if path == "broken":
        raise ValueError("disk")
    return path


RESOURCES: dict[str, Callable[..., Any]] = {
    "text://motd": motd,
    "bytes://raw": raw,
    "json://table": table,
    "page://{number}{?size}": page,
    "file:///{+path}": file,
}

READS = [
    "text://motd",
    "bytes://raw",
    "json://table",
    "page://3",
    "page://3?size=7",
    "page://x",
    "file:///a/b",
    "file:///secret",
    "file:///locked",
    "file:///broken",
    "file:///../etc",
    "none://such",
]


# --- shapes ---------------------------------------------------------------------------------------


def as_it_is(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def as_sync(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same, without async: it runs on a thread."""

    def sync(*args: Any, **kwargs: Any) -> Any:
        try:
            fn(*args, **kwargs).send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits")

    return _like(sync, fn, inspect.signature(fn, eval_str=True))


def as_body(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with a context: a body."""

    async def body(*args: Any, ctx: DurableContext, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    signature = inspect.signature(fn)
    ours = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation="DurableContext")
    return _like(body, fn, signature.replace(parameters=[*signature.parameters.values(), ours]))


def _like(made: Any, fn: Callable[..., Any], signature: inspect.Signature) -> Any:
    made.__name__, made.__qualname__, made.__doc__ = fn.__name__, fn.__qualname__, fn.__doc__
    made.__signature__ = signature
    made.__annotations__ = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    if signature.return_annotation is not inspect.Signature.empty:
        made.__annotations__["return"] = signature.return_annotation
    return made


def furnish(server: MCPServer[Any], shape: Shape = as_it_is, **options: Any) -> None:
    for fn in TOOLS:
        server.tool()(shape(fn))
    for fn in PROMPTS:
        server.prompt(**options)(shape(fn))
    for uri, fn in RESOURCES.items():
        server.resource(uri, **options)(shape(fn))
