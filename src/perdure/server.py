"""`DurableMCP`: the official SDK's server with an engine.

It registers functions, gives the SDK a stand-in where that must not see our context, leads requests for what is durable
to the gateway, and owns the engine's lifetime. What a function is the registry decides; all else is `MCPServer`'s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload
from weakref import WeakKeyDictionary

from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, SubscriptionBus
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    Annotations,
    CallToolResult,
    GetPromptResult,
    Icon,
    InputRequiredResult,
    Tool,
    ToolAnnotations,
    ToolExecution,
)
from pydantic import AnyUrl, ValidationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from typing_extensions import TypeVar as TypeVarWithDefault
from typing_extensions import Unpack

from perdure.calls import EVERYONE, Calls
from perdure.context import DurableContext
from perdure.datafile import private_data_file
from perdure.effects import Frame, current_effects, own_loop, running_frame
from perdure.engine import (
    ADOPTABLE,
    CallView,
    Engine,
    Function,
    Principal,
    open_engine,
)
from perdure.errors import EffectOutsideStep
from perdure.job import Job
from perdure.protocol.answer import prompt_error, resource_error, tool_error
from perdure.protocol.asked import asked_context, asked_raw, asking, request_of
from perdure.protocol.callers import MACHINE, Caller, Doors, caller_of
from perdure.protocol.conversation import Conversation
from perdure.protocol.gateway import Gateway
from perdure.protocol.handles import HandleTools, or_handle
from perdure.protocol.handoff import Handoff, Handoffs, refuse_task
from perdure.protocol.legacy_tasks import LegacyTasks
from perdure.protocol.lifetime import Life, Lifetime
from perdure.protocol.outcomes import (
    prompt_messages,
    prompt_outcome,
    resource_content,
    resource_outcome,
    tool_outcome,
    tool_result,
)
from perdure.protocol.questions import AskedInstead, input_required
from perdure.protocol.replies import Finished, HandedOff, NeedsInput, Reply
from perdure.protocol.sdk import RequestContext, close_listens, lowlevel_server, registered_tool, serve_listens
from perdure.protocol.seal import sealed_beside
from perdure.protocol.serve import Address, loopback_only, run_http, run_stdio, serve_http, serve_stdio
from perdure.protocol.task_listening import TaskListening
from perdure.protocol.tasks import Tasks
from perdure.protocol.unattended import unattended_context
from perdure.protocol.wire import CancelNote, RequestRef, WireMiddleware, Wires, cancel_in_memory
from perdure.registry import Plan, Registry
from perdure.sampler import Sampler
from perdure.store import Store
from perdure.tool import (
    CallOptions,
    Durable,
    Kind,
    Parameters,
    Registration,
    shim_of,
)

log = logging.getLogger("perdure")

App = TypeVarWithDefault("App", default=Any)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

Transport = Literal["stdio", "sse", "streamable-http"]
MAX_LISTENS = 1024
"""As the SDK has it."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts for which the SDK checks `Host` and `Origin` unasked."""


class JobDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[DurableContext[Any], P], Coroutine[Any, Any, T]], /) -> Job[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Job[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Job[P, T]: ...


class DurableMCP(MCPServer[App]):
    """An MCP server whose accepted calls run to their end, whatever happens to its process or its clients.

    `engine` says where calls are kept: a path, `"memory:"`, a URL or an engine; else `PERDURE_ENGINE` does, else it
    is a file of the server's name in the user's data folder. `defaults` are the options of all durable functions.
    `principal` decides who asks over HTTP. `sampler` is a model for `ctx.sample` where the client has none.
    With `handle_tools` clients that know no tasks get handles, and tools to come back with. `adopt_within` is how
    long after its end a call that nobody was answered for is handed to who asks the same. `max_listens` is
    how many clients may listen at once (`subscriptions/listen`). All other options are `MCPServer`'s.
    """

    calls: Calls
    """All calls of this server, of whichever caller."""

    @overload
    def __init__(
        self,
        name: str,
        title: str | None = None,
        description: str | None = None,
        instructions: str | None = None,
        *,
        lifespan: Callable[[MCPServer[App]], AbstractAsyncContextManager[App]],
        engine: str | Path | Engine | None = None,
        defaults: CallOptions = ...,
        principal: Callable[[HTTPConnection], Principal | None] = ...,
        sampler: Sampler | None = None,
        handle_tools: bool = False,
        adopt_within: timedelta = ...,
        max_listens: int = ...,
        **mcp_server_options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: DurableMCP[Any],
        name: str,
        title: str | None = None,
        description: str | None = None,
        instructions: str | None = None,
        *,
        engine: str | Path | Engine | None = None,
        defaults: CallOptions = ...,
        principal: Callable[[HTTPConnection], Principal | None] = ...,
        sampler: Sampler | None = None,
        handle_tools: bool = False,
        adopt_within: timedelta = ...,
        max_listens: int = ...,
        **mcp_server_options: Any,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        title: str | None = None,
        description: str | None = None,
        instructions: str | None = None,
        *,
        lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]] | None = None,
        engine: str | Path | Engine | None = None,
        defaults: CallOptions | None = None,
        principal: Callable[[HTTPConnection], Principal | None] | None = None,
        sampler: Sampler | None = None,
        handle_tools: bool = False,
        adopt_within: timedelta = ADOPTABLE,
        max_listens: int = MAX_LISTENS,
        **mcp_server_options: Any,
    ) -> None:
        # All of this before the SDK's part, in which extensions add their tools.
        self.adopt_within = adopt_within
        self.sampler = sampler
        self._handoffs = Handoffs(self, handles=handle_tools)
        self._where: str | Path | Engine | None = engine
        self._engine: Engine | None = None
        self._user_lifespan = _no_lifespan if lifespan is None else lifespan
        self._registry = Registry(self, {} if defaults is None else defaults)
        self._tools: dict[str, Durable] = {}
        self._lifetime: Lifetime[App] = Lifetime(self._registry.functions, self._new_life)
        bus = mcp_server_options.get("subscriptions")
        if bus is None:
            bus = mcp_server_options["subscriptions"] = InMemorySubscriptionBus()
        self._bus: SubscriptionBus = bus or InMemorySubscriptionBus()
        self._elsewhere = Doors(auth=mcp_server_options.get("auth") is not None, principal=principal)
        self._doors: WeakKeyDictionary[Starlette, Doors] = WeakKeyDictionary()
        self._wires = Wires(on_cancel=self._cancelled, on_resumed=self._resumed, on_session_ended=self._session_ended)
        self._session_managers: list[StreamableHTTPSessionManager] = []
        if mcp_server_options.get("request_state_security") is None:
            mcp_server_options["request_state_security"] = sealed_beside(lambda: self.engine.path, self._caller_id)
        self.calls = Calls(lambda: self.engine, caller=EVERYONE, code=self._registry)
        mcp_server_options["extensions"] = [*(mcp_server_options.get("extensions") or ()), Tasks(self)]
        mcp_server_options["middleware"] = [
            self._hear_cancels,
            legacy_tasks := LegacyTasks(self),
            TaskListening(self),
            *(mcp_server_options.get("middleware") or ()),
        ]
        super().__init__(name, title, description, instructions, lifespan=_entered_by_the_sdk, **mcp_server_options)
        legacy_tasks.serve(lowlevel_server(self))
        if bus is not False:
            serve_listens(self, self._bus, max_listens)
        if handle_tools:
            HandleTools(self)

    # --- lifetime ---

    @property
    def engine(self) -> Engine:
        """What calls run on. It may be set until it is first used, and then overrules what the server was made with."""
        if self._engine is None:
            self._engine = open_engine(self._where or os.environ.get("PERDURE_ENGINE") or private_data_file(self.name))
        return self._engine

    @engine.setter
    def engine(self, where: str | Path | Engine) -> None:
        if self._lifetime.lives:
            raise RuntimeError(f"{self.name} runs on {self._engine!r} already")
        self._where, self._engine = where, None

    @contextmanager
    def on(self, engine: Engine) -> Generator[None]:
        """Another engine for a while, whatever the server and its surroundings say: a trial's."""
        before = self._where, self._engine
        self.engine = engine
        try:
            yield
        finally:
            self._where, self._engine = before

    @property
    def state(self) -> App:
        """What the lifespan yielded; there while the server runs, in steps and tools too."""
        return self._lifetime.current.state

    @asynccontextmanager
    async def serving(self, app: object = None, *, work: bool = True) -> AsyncGenerator[None]:
        """Have the engine open, and with `work` run calls.

        For a script; and as the lifespan of an application that mounts `streamable_http_app()`, whose own does not run.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._lifetime.enter(work=work))
            for manager in self._session_managers if app is not None else ():
                await stack.enter_async_context(manager.run())
            if app is not None:
                stack.push_async_callback(self._drain)  # or sessions would be cut off before they are told
            yield

    @asynccontextmanager
    async def entered(self) -> AsyncGenerator[App]:
        """The SDK's lifespan: it is entered once per connection in memory, and once for all over HTTP."""
        async with self._lifetime.enter() as life:
            yield life.state

    def _new_life(self) -> Life[App]:
        engine = self.engine
        log.info("%s keeps its calls in %r", self.name, engine)
        gateway = Gateway(engine, adopt_within=self.adopt_within, doors=self._doors_of, bus=self._bus)
        return Life(engine, gateway, self._user_lifespan(self))

    # --- running ---

    def run(self, transport: Transport = "stdio", **kwargs: Any) -> None:
        """Serve until the end of input or a signal; then let requests and calls go in good order."""
        match transport:
            case "stdio":
                serve_stdio(self, drain=self._drain, on_cancel=self._cancelled)
            case "streamable-http":
                host, port = kwargs.pop("host", "127.0.0.1"), kwargs.pop("port", 8000)
                app = self.streamable_http_app(host=host, **kwargs)
                serve_http(app, host=host, port=port, **self._http_options(app, **kwargs))
            case "sse":
                super().run("sse", **kwargs)

    async def run_stdio_async(self) -> None:
        await run_stdio(self, drain=self._drain, on_cancel=self._cancelled)

    async def run_streamable_http_async(self, *, host: str = "127.0.0.1", port: int = 8000, **kwargs: Any) -> None:
        app = self.streamable_http_app(host=host, **kwargs)
        await run_http(app, host=host, port=port, **self._http_options(app, **kwargs))

    def _http_options(self, app: Starlette, *, streamable_http_path: str = "/mcp", **_: Any) -> dict[str, Any]:
        level = self.settings.log_level.lower()
        listening = partial(self._listening, app)
        return {
            "drain": self._drain,
            "log_level": level,
            "on_listening": listening,
            "path": streamable_http_path,
        }

    def streamable_http_app(
        self,
        *,
        transport_security: TransportSecuritySettings | None = None,
        host: str = "127.0.0.1",
        **kwargs: Any,
    ) -> Starlette:
        app = super().streamable_http_app(transport_security=transport_security, host=host, **kwargs)
        self._session_managers.append(self.session_manager)
        checks = host in LOOPBACK if transport_security is None else transport_security.enable_dns_rebinding_protection
        self._doors[app] = replace(self._elsewhere, host_check=checks)
        app.add_middleware(WireMiddleware, wires=self._wires)
        return app

    def _listening(self, app: Starlette, addresses: Sequence[Address]) -> None:
        self._doors[app] = replace(self._doors[app], bound=loopback_only(addresses))

    def _doors_of(self, request: RequestContext) -> Doors:
        """Each application has its own: what holds for one bound to loopback does not for one mounted elsewhere."""
        app = None if request.request is None else request.request.scope.get("app")
        return self._doors.get(app, self._elsewhere) if isinstance(app, Starlette) else self._elsewhere

    def _caller_id(self, request: RequestContext) -> str | None:
        return caller_of(request, self._doors_of(request)).id

    async def _drain(self) -> None:
        for life in self._lifetime.lives:
            life.gateway.drain()
        close_listens(self)
        self._wires.end_streams()

    # --- registering ---

    @property
    def functions(self) -> Sequence[Function]:
        """What the engine runs, also what was registered since it was asked for."""
        return self._registry.functions

    @property
    def registrations(self) -> Sequence[Registration]:
        """All that was registered here, ordinary or durable, in its order; what was added past us is not known."""
        return self._registry.registrations

    def add_tool(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """Register a tool: a body if it takes a `DurableContext`, else one whole step, else ordinary (DESIGN §2)."""
        read_only = annotations is not None and annotations.read_only_hint is True
        idempotent = annotations is not None and annotations.idempotent_hint is True
        plan = self._registry.plan(fn, "tool", options, read_only=read_only, idempotent=idempotent)
        known = fn
        if plan.our_context is not None:
            known = shim_of(fn, plan.hints, plan.our_context, _never_called)
        tool_name = name or known.__name__
        if plan.way != "ordinary":
            self._registry.check_free(fn, tool_name)
        super().add_tool(known, tool_name, title, description, annotations, icons, meta, structured_output)
        if plan.way != "ordinary":
            try:
                self._tools[tool_name] = self._keep_tool(fn, tool_name, plan)
            except BaseException:
                super().remove_tool(tool_name)
                raise
        self._registry.note("tool", tool_name, plan, fn)

    def _keep_tool(self, fn: Callable[..., Any], name: str, plan: Plan) -> Durable:
        metadata = registered_tool(self, name).fn_metadata
        parameters = Parameters(metadata.arg_model, metadata.validate_arguments)
        outcome = tool_outcome(metadata, plan.hints.get("return"))
        return self._registry.keep(fn, "tool", name, plan, parameters, outcome)

    def tool(
        self,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Callable[[F], F]:
        """Decorator for `add_tool`."""
        if callable(name):
            raise TypeError("Did you forget to call it? Use @tool() instead of @tool")

        def register(fn: F) -> F:
            self.add_tool(fn, name, title, description, annotations, icons, meta, structured_output, **options)
            return fn

        return register

    def remove_tool(self, name: str) -> None:
        """Offer a tool no longer; its calls go on."""
        super().remove_tool(name)
        self._tools.pop(name, None)
        self._registry.forget_tool(name)

    def prompt(
        self,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: list[Icon] | None = None,
        **options: Unpack[CallOptions],
    ) -> Callable[[F], F]:
        """Decorator for a prompt: a body if it takes a `DurableContext`; else ordinary, unless its options say more."""
        sdk_prompt = super().prompt

        def register(fn: F) -> F:
            plan = self._registry.plan(fn, "prompt", options, read_only=True, idempotent=True)
            prompt_name = name or fn.__name__
            if plan.way == "ordinary":
                sdk_prompt(name, title, description, icons)(fn)
                self._registry.note("prompt", prompt_name, plan, fn)
                return fn
            self._registry.check_free(fn, prompt_name)

            async def serve(values: dict[str, Any]) -> Any:
                raw = asked_raw()
                try:
                    arguments = raw if isinstance(raw, Mapping) else values
                    return await self._call(kept, arguments, values, prompt_messages)
                except Exception as error:
                    raise prompt_error(error) from error

            shim = shim_of(fn, plan.hints, plan.our_context or plan.sdk_context, serve)
            parameters, outcome = _parameters_of(shim), prompt_outcome(prompt_name, description or fn.__doc__ or "")
            sdk_prompt(prompt_name, title, description, icons)(shim)
            kept = self._registry.keep(fn, "prompt", prompt_name, plan, parameters, outcome)
            self._registry.note("prompt", prompt_name, plan, fn)
            return fn

        if callable(name):
            sdk_prompt(name)  # raises, with the SDK's advice
        return register

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        icons: list[Icon] | None = None,
        annotations: Annotations | None = None,
        meta: dict[str, Any] | None = None,
        security: ResourceSecurity | None = None,
        **options: Unpack[CallOptions],
    ) -> Callable[[F], F]:
        """Decorator for a resource or template: a body if it takes a `DurableContext`; else as `prompt`."""
        sdk_register = super().resource(
            uri,
            name=name,
            title=title,
            description=description,
            mime_type=mime_type,
            icons=icons,
            annotations=annotations,
            meta=meta,
            security=security,
        )
        template = UriTemplate.parse(uri)

        def register(fn: F) -> F:
            plan = self._registry.plan(fn, "resource", options, read_only=True, idempotent=True)
            if plan.way == "ordinary":
                sdk_register(fn)
                self._registry.note("resource", uri, plan, fn)
                return fn
            self._registry.check_free(fn, uri)

            async def serve(values: dict[str, Any]) -> Any:
                uri_asked = asked_raw()
                raw = template.match(uri_asked) if isinstance(uri_asked, str) else values
                try:
                    content = await self._call(kept, raw or {}, values, resource_content)
                except Exception as error:
                    raise resource_error(error) from error
                if isinstance(content, InputRequiredResult):
                    raise AskedInstead(content)
                return content

            shim = shim_of(fn, plan.hints, plan.our_context or plan.sdk_context, serve)
            parameters = _parameters_of(shim)
            sdk_register(shim)
            kept = self._registry.keep(fn, "resource", uri, plan, parameters, resource_outcome(uri))
            self._registry.note("resource", uri, plan, fn)
            return fn

        return register

    def job(
        self, name: str | None = None, *, every: timedelta | None = None, **options: Unpack[CallOptions]
    ) -> JobDecorator:
        """Decorator that makes a durable function which clients do not see.

        With `every` it runs by itself, without arguments: one call per tick over all processes. Ticks are at the
        multiples of `every` since 1970 (UTC); one at which no process ran is made up once.
        """

        def register(fn: Callable[..., Any]) -> Job[..., Any]:
            plan = self._registry.plan(fn, "job", {**options, "durable": True}, read_only=False, idempotent=False)
            job_name = name or fn.__name__
            self._registry.check_free(fn, job_name)
            job = self._registry.keep_job(fn, job_name, plan, every)
            self._registry.note("job", job_name, plan, fn)
            return job

        return cast("JobDecorator", register)

    def store(self, name: str, type: type[V], *, per_principal: bool = False) -> Store[V]:
        """A durable sorted map, shared by all who ask or, with `per_principal`, one of each caller's own."""
        self._registry.keep_store(name)
        return Store(name, type, engine=lambda: self.engine, per_principal=per_principal)

    def unattended(self, call_id: str, kind: Kind) -> Context[Any, Any]:
        """The SDK's context for a whole step whose request is gone: the lifespan's state, and nobody to talk to."""
        return unattended_context(self, call_id, kind, self.state, self._bus)

    # --- requests ---

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[App, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        _refuse_in_body(f"call_tool({name!r})")
        durable = self._tools.get(name)
        if durable is None:
            refuse_task(name, request_of(context))
            with self._ordinarily(name, context):
                return await super().call_tool(name, arguments, context)
        try:
            values = durable.parameters.validate(arguments)
        except ValidationError as error:
            raise ToolError(f"Error executing tool {name}: {error}") from error
        except MCPError:
            raise
        except Exception as error:
            raise UnexpectedToolError(f"Error executing tool {name}") from error
        handoff = self._handoffs.of(durable, request_of(context))
        with asking(context, arguments):
            try:
                return _rendered(await self._reply(durable, arguments, values, handoff), tool_result, handoff)
            except Exception as error:
                raise tool_error(name, error) from error

    async def list_tools(self) -> list[Tool]:
        """Clients of 2025-11-25 are told which tools may be tasks; to others the SDK does not show it."""
        tools = await super().list_tools()
        for tool in tools:
            durable = self._tools.get(tool.name)
            if durable is not None and durable.options.task != "forbidden":
                tool.execution = ToolExecution(task_support=durable.options.task)
                if tool.output_schema is not None and self._handoffs.may_give_handle(durable):
                    tool.output_schema = or_handle(tool.output_schema)
        return tools

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[App, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        _refuse_in_body(f"get_prompt({name!r})")
        with self._ordinarily(name, context), asking(context, arguments or {}):
            return await super().get_prompt(name, arguments, context)

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[App, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        _refuse_in_body(f"read_resource({str(uri)!r})")
        with self._ordinarily(str(uri), context), asking(context, str(uri)):
            try:
                return await super().read_resource(uri, context)
            except AskedInstead as asked:
                return asked.result

    async def _call(
        self, durable: Durable, raw: Mapping[str, Any], values: dict[str, Any], result_of: Callable[[bytes], T]
    ) -> T | InputRequiredResult:
        return _rendered(await self._reply(durable, raw, values, None), result_of)

    async def _reply(
        self, durable: Durable, raw: Mapping[str, Any], values: dict[str, Any], handoff: Handoff | None
    ) -> Reply:
        request = request_of(asked_context())
        encoded = durable.parameters.encode(raw, values)
        return await self._lifetime.current.gateway.call(durable, encoded, request, handoff)

    async def attend(self, call_id: str, conversation: Conversation) -> CallView:
        """Wait until a call is settled, for a request about it."""
        return await self._lifetime.current.gateway.attend(call_id, conversation)

    def looking(self) -> AbstractAsyncContextManager[None]:
        """Around what an ordinary request waits for: it ends when the server does, and says so."""
        return self._lifetime.current.gateway.looking()

    def caller_for(self, ctx: RequestContext) -> Caller:
        return caller_of(ctx, self._doors_of(ctx))

    def calls_for(self, ctx: RequestContext) -> Calls:
        """The calls of whoever sent a request."""
        caller = self.caller_for(ctx)
        return Calls(lambda: self.engine, caller=caller.id, principal=caller.principal, code=self._registry)

    @contextmanager
    def _ordinarily(self, name: str, context: Context[Any, Any] | None) -> Generator[None]:
        """What is not recorded may ask `current_step` who asks, and stores find there whose entries are meant."""
        request = request_of(context)
        caller = MACHINE if request is None else caller_of(request, self._doors_of(request))
        token = running_frame.set(Frame(self._registry, caller.id, caller.principal, name=name, loop=own_loop()))
        try:
            yield
        finally:
            running_frame.reset(token)

    async def _hear_cancels(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None and (note := cancel_in_memory(ctx)) is not None:
            self._cancelled(note)
        return await call_next(ctx)

    def _cancelled(self, note: CancelNote) -> None:
        for life in self._lifetime.lives:
            life.gateway.cancelled(note)

    def _session_ended(self, session: str) -> None:
        for life in self._lifetime.lives:
            life.gateway.session_ended(session)

    def _resumed(self, ref: RequestRef) -> None:
        for life in self._lifetime.lives:
            life.gateway.resumed(ref)


@asynccontextmanager
async def _no_lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    yield {}


def _entered_by_the_sdk(server: MCPServer[Any]) -> AbstractAsyncContextManager[Any]:
    return cast("DurableMCP[Any]", server).entered()


def _rendered(reply: Reply, result_of: Callable[[bytes], Any], handoff: Handoff | None = None) -> Any:
    """What the SDK sends for a reply."""
    match reply:
        case NeedsInput():
            return input_required(reply)
        case HandedOff():
            assert handoff is not None
            return handoff.reply(reply.view)
        case Finished():
            assert reply.view.outcome is not None
            return result_of(reply.view.outcome)


def _refuse_in_body(what: str) -> None:
    if (effects := current_effects()) is not None:
        raise EffectOutsideStep(what, effects.call_id)


def _parameters_of(shim: Callable[..., Any]) -> Parameters:
    model = func_metadata(shim, structured_output=False).arg_model
    return Parameters(model, lambda raw: model.model_validate(raw).model_dump_one_level())


async def _never_called(_: dict[str, Any]) -> Any:
    raise AssertionError("a durable tool is answered before the SDK calls its function")
