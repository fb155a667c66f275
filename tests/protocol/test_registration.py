"""What a function is, and which options it can have, shows when it is registered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp_types import ElicitResult, InputRequiredResult, ToolAnnotations
from pydantic import BaseModel, Field, SecretStr

from perdure import CallOptions, DurableContext, DurableMCP, NotRecordable, Retry, Signal
from perdure.tool import function_name
from tests.protocol.asking import calls_of

READ_ONLY = ToolAnnotations(read_only_hint=True)
WRITES = ToolAnnotations(read_only_hint=False)


class Sure(BaseModel):
    ok: bool


async def confirm(path: str) -> Sure | Elicit[Sure]:
    return Elicit(f"Delete {path}?", Sure)


@pytest.fixture
def mcp() -> DurableMCP[Any]:
    return server()


def server(**options: Any) -> DurableMCP[Any]:
    return DurableMCP("registration", engine="memory:", log_level="CRITICAL", **options)


async def kinds(mcp: DurableMCP[Any]) -> set[str]:
    """Call everything there is; what was recorded."""
    async with Client(mcp) as client:
        for tool in (await client.list_tools()).tools:
            assert not (await client.call_tool(tool.name, {})).is_error
        for prompt in (await client.list_prompts()).prompts:
            await client.get_prompt(prompt.name)
        for resource in (await client.list_resources()).resources:
            await client.read_resource(resource.uri)
        return {call.tool for call in (await mcp.calls.find()).calls}


# --- recorded or ordinary -------------------------------------------------------------------------


async def test_a_tool_is_recorded_unless_it_only_reads_or_says_otherwise(mcp: DurableMCP[Any]) -> None:
    def named(name: str) -> Callable[[], None]:
        def fn() -> None: ...

        fn.__qualname__ = fn.__name__ = name
        return fn

    mcp.tool()(named("plain"))
    mcp.tool(annotations=WRITES)(named("writes"))
    mcp.tool(annotations=READ_ONLY)(named("reads"))
    mcp.tool(durable=False)(named("ordinary"))
    mcp.tool(annotations=READ_ONLY, durable=True)(named("reads_durably"))
    mcp.tool(annotations=READ_ONLY, key="k")(named("reads_by_key"))
    mcp.tool(annotations=READ_ONLY, task="optional")(named("reads_as_task"))
    assert await kinds(mcp) == {"plain", "writes", "reads_durably", "reads_by_key", "reads_as_task"}


async def test_prompts_and_resources_are_ordinary_unless_they_ask_for_more(mcp: DurableMCP[Any]) -> None:
    @mcp.prompt()
    def prompt() -> str:
        return "ordinary"

    @mcp.prompt(durable=True)
    def recorded_prompt() -> str:
        return "recorded"

    @mcp.prompt()
    async def prompt_body(ctx: DurableContext) -> str:
        return ctx.call_id

    @mcp.resource("a://ordinary")
    def resource() -> str:
        return "ordinary"

    @mcp.resource("a://keyed", key="k")
    def keyed_resource() -> str:
        return "recorded"

    @mcp.resource("a://body")
    async def resource_body(ctx: DurableContext) -> str:
        return ctx.call_id

    assert await kinds(mcp) == {"recorded_prompt", "prompt_body", "a://keyed", "a://body"}


async def test_a_tool_that_asks_through_the_sdk_stays_ordinary(mcp: DurableMCP[Any]) -> None:
    async def answer(context: object, params: object) -> ElicitResult:
        return ElicitResult(action="accept", content={"ok": True})

    @mcp.tool()
    async def delete(path: str, sure: Annotated[Sure, Resolve(confirm)]) -> str:
        return f"{path}: {sure.ok}"

    @mcp.tool()
    async def rounds(ctx: Context) -> str | InputRequiredResult:
        return "asked" if ctx.request_state else InputRequiredResult(request_state="x")

    async with Client(mcp, elicitation_callback=answer) as client:
        assert "True" in str(await client.call_tool("delete", {"path": "/"}))
        assert "asked" in str(await client.call_tool("rounds", {}))
        assert await calls_of(mcp) == []


async def test_the_servers_defaults_decide_where_a_function_says_nothing() -> None:
    mcp = server(defaults=CallOptions(durable=False, retry=Retry(attempts=3)))

    @mcp.tool()
    def plain() -> None: ...

    @mcp.tool(durable=True)
    def recorded() -> None: ...

    @mcp.tool()
    async def body(ctx: DurableContext) -> None: ...  # retry= of the defaults is not for bodies

    assert await kinds(mcp) == {"recorded", "body"}


async def test_the_servers_defaults_mean_the_same_for_jobs_as_for_tools() -> None:
    mcp = server(defaults=CallOptions(shared=True, reuse=timedelta(days=30)))

    @mcp.job()
    async def keyless() -> None: ...

    @mcp.job(key="k")
    async def keyed() -> None: ...

    @mcp.tool()
    async def tool() -> None: ...

    options = {each.name: each.options for each in mcp.registrations}
    assert options["keyless"] == options["tool"]
    for job in (keyless, keyed):
        request, resolved = job.request({}), options[job.name]
        assert resolved is not None
        assert (request.shared, request.retain) == (resolved.shared, resolved.retain)
    assert (keyless.request({}).shared, keyed.request({}).shared) == (False, True)


# --- what is refused ------------------------------------------------------------------------------


async def body(ctx: DurableContext) -> None: ...
def sync_body(ctx: DurableContext) -> None: ...
async def both(ours: DurableContext, sdks: Context) -> None: ...
async def asking_body(ctx: DurableContext, path: str, sure: Annotated[Sure, Resolve(confirm)]) -> None: ...
async def asking(path: str, sure: Annotated[Sure, Resolve(confirm)]) -> None: ...
def plain() -> None: ...


MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (sync_body, {}, "must be async"),
    (both, {}, "both contexts"),
    (asking_body, {}, "use ctx.elicit"),
    (body, {"durable": False}, "only a durable function"),
    (body, {"retry": Retry()}, "each step has its own"),
    (asking, {"durable": True}, "asks its client through the SDK"),
    (asking, {"key": "{path}"}, "asks its client through the SDK"),
    (plain, {"durable": False, "key": "k"}, "contradicts"),
    (plain, {"durable": False, "retry": Retry()}, "retry have no effect on an ordinary function"),
    (plain, {"annotations": READ_ONLY, "deadline": MINUTE}, "deadline have no effect"),
    (plain, {"shared": True}, "give one with key="),
    (plain, {"reuse": MINUTE}, "give one with key="),
    (plain, {"deadline": timedelta(0)}, "longer than nothing"),
    (plain, {"key": "k", "reuse": HOUR, "retain": MINUTE}, "at least reuse"),
    (plain, {"key": "{nobody}"}, "no parameter"),
]


@pytest.mark.parametrize(("fn", "options", "why"), REFUSED)
def test_what_cannot_be_meant_is_refused(
    mcp: DurableMCP[Any], fn: Callable[..., Any], options: dict[str, Any], why: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=why) as refused:
        mcp.tool(**options)(fn)
    assert fn.__name__ in str(refused.value) or "key" in str(refused.value)


async def test_what_was_refused_is_not_offered(mcp: DurableMCP[Any]) -> None:
    for fn, options, _ in REFUSED:
        with pytest.raises((TypeError, ValueError)):
            mcp.tool(**options)(fn)
    assert [tool.name for tool in await mcp.list_tools()] == []


def login(password: Annotated[SecretStr, Field(default_factory=lambda: SecretStr("made"))]) -> str:
    return password.get_secret_value()


async def test_a_secret_that_is_made_as_a_default_is_refused_because_it_could_not_be_recorded(
    mcp: DurableMCP[Any],
) -> None:
    for register in (mcp.tool(), mcp.prompt(durable=True), mcp.resource("a://login", durable=True)):
        with pytest.raises(NotRecordable, match=r"default of password .* secret"):
            register(login)
    assert (await mcp.list_tools(), await mcp.list_prompts(), await mcp.list_resources()) == ([], [], [])
    assert list(mcp.registrations) == []


def test_what_was_refused_is_not_registered(mcp: DurableMCP[Any]) -> None:
    mcp.job(name="taken")(body)
    for register in (mcp.prompt("taken"), mcp.resource("taken://"), mcp.tool("taken")):
        with pytest.raises(ValueError, match="registered already"):
            register(body)
    assert [(each.kind, each.name) for each in mcp.registrations] == [("job", "taken")]


def test_two_functions_cannot_have_one_name(mcp: DurableMCP[Any]) -> None:
    def make() -> Callable[[], None]:
        def made() -> None: ...

        return made

    mcp.tool(name="one")(make())
    with pytest.raises(ValueError, match="registered already"):
        mcp.tool(name="two")(make())


def test_two_durable_things_cannot_be_shown_under_one_name(mcp: DurableMCP[Any]) -> None:
    mcp.tool(name="same")(plain)
    with pytest.raises(ValueError, match="use another name"):
        mcp.prompt(name="same")(body)


def test_annotations_that_cannot_be_resolved_are_named(mcp: DurableMCP[Any]) -> None:
    async def broken(ctx: DurableContext, what: int) -> None: ...

    broken.__annotations__["what"] = "Missing"
    with pytest.raises(TypeError, match="Missing"):
        mcp.tool()(broken)


def test_a_decorator_that_was_not_called_says_so(mcp: DurableMCP[Any]) -> None:
    for decorator in (mcp.tool, mcp.prompt, mcp.resource):
        with pytest.raises(TypeError, match="forget to call it"):
            decorator(plain)  # pyright: ignore[reportArgumentType]  the mistake that it is about


# --- names ----------------------------------------------------------------------------------------


def test_calls_are_kept_under_module_and_qualified_name() -> None:
    assert function_name(plain) == "tests.protocol.test_registration:plain"
    assert function_name(partial(plain)) == "tests.protocol.test_registration:plain"
    assert function_name(Sure.model_validate).endswith(":BaseModel.model_validate")


def test_a_script_counts_as_its_files_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    monkeypatch.setattr(plain, "__module__", "__main__")
    monkeypatch.setattr(__main__, "__spec__", None)
    monkeypatch.setattr(__main__, "__file__", "/srv/weather.py", raising=False)
    assert function_name(plain) == "weather:plain"


async def test_a_removed_tool_is_not_offered_and_can_come_back(mcp: DurableMCP[Any]) -> None:
    mcp.tool()(plain)
    mcp.remove_tool("plain")
    assert await mcp.list_tools() == []
    mcp.tool()(plain)
    assert await kinds(mcp) == {"plain"}


async def test_signals_are_declared(mcp: DurableMCP[Any]) -> None:
    approval = Signal("approval", bool, once=True)

    @mcp.tool(signals=[approval])
    async def wait(ctx: DurableContext) -> bool:
        return await ctx.receive(approval)

    async with Client(mcp):
        call = await mcp.calls.start("wait", {})
        await mcp.calls.signal(call.id, approval, True)
        assert await call.result() is True
