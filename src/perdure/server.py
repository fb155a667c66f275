"""`DurableMCP`: the official SDK's server with an engine.

It owns the engine's lifetime, and leads requests for what is durable to the reception. How functions get in,
`perdure.decorators` has; all else is `MCPServer`'s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, SubscriptionBus
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, GetPromptResult, InputRequiredResult, Tool, ToolExecution
from pydantic import AnyUrl, ValidationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from typing_extensions import TypeVar as TypeVarWithDefault

from perdure.calls import EVERYONE, Calls
from perdure.datafile import private_data_file
from perdure.decorators import Decorators
from perdure.effects import current_effects
from perdure.engine import ADOPTABLE, Engine, Principal, open_engine
from perdure.errors import EffectOutsideStep
from perdure.protocol.answer import tool_error
from perdure.protocol.callers import Doors
from perdure.protocol.current_request import answering, request_of
from perdure.protocol.entrances import Entrances
from perdure.protocol.gateway import Gateway
from perdure.protocol.handoff import Handoffs, refuse_task
from perdure.protocol.legacy_tasks import LegacyTasks
from perdure.protocol.lifetime import Life, Lifetime
from perdure.protocol.outcomes import tool_result
from perdure.protocol.questions import AskedInstead
from perdure.protocol.reception import Reception
from perdure.protocol.sdk import RequestContext, close_listens, lowlevel_server, serve_listens
from perdure.protocol.seal import Seal, sealed_by
from perdure.protocol.serve import run_http, run_stdio, serve_http, serve_stdio
from perdure.protocol.task_listening import TaskListening
from perdure.protocol.tasks import Tasks
from perdure.protocol.unattended import unattended_context
from perdure.protocol.wire import WireMiddleware, Wires, cancel_in_memory
from perdure.registry import Registry
from perdure.sampler import Sampler
from perdure.tool import CallOptions, Kind

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


class DurableMCP(Decorators[App]):
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
        self._where: str | Path | Engine | None = engine
        self._engine: Engine | None = None
        self._user_lifespan = _no_lifespan if lifespan is None else lifespan
        self._registry = Registry(self, {} if defaults is None else defaults)
        self._tools = {}
        bus = mcp_server_options.get("subscriptions")
        if bus is None:
            bus = mcp_server_options["subscriptions"] = InMemorySubscriptionBus()
        self._bus: SubscriptionBus = bus or InMemorySubscriptionBus()
        self._lifetime: Lifetime[App] = Lifetime(self._registry.functions, self._new_life)
        self._entrances = Entrances(Doors(auth=mcp_server_options.get("auth") is not None, principal=principal))
        self._reception = Reception(self._entrances, self._lifetime, lambda: self.engine, self._registry)
        self._wires = Wires(
            on_cancel=self._reception.cancelled,
            on_resumed=self._reception.resumed,
            on_session_ended=self._reception.session_ended,
        )
        self._session_managers: list[StreamableHTTPSessionManager] = []
        self._handoffs = Handoffs(lambda: self.engine, handles=handle_tools, has_model=sampler is not None)
        self.calls = Calls(lambda: self.engine, caller=EVERYONE, code=self._registry)
        self._before_asking: Callable[[], None] = lambda: None
        if mcp_server_options.get("request_state_security") is None:
            seal = Seal(lambda: self.engine.path)
            self._before_asking = seal.make_ready
            mcp_server_options["request_state_security"] = sealed_by(seal, self._reception.caller_id)
        mcp_server_options["extensions"] = [*(mcp_server_options.get("extensions") or ()), Tasks(self._reception)]
        mcp_server_options["middleware"] = [
            self._hear_cancels,
            legacy_tasks := LegacyTasks(self._reception),
            TaskListening(self._reception),
            *(mcp_server_options.get("middleware") or ()),
        ]
        super().__init__(name, title, description, instructions, lifespan=_entered_by_the_sdk, **mcp_server_options)
        legacy_tasks.serve(lowlevel_server(self))
        if bus is not False:
            serve_listens(self, self._bus, max_listens)
        if handle_tools:
            from perdure.protocol.handles import HandleTools  # its models are for servers that give handles

            HandleTools(self._reception).add_to(self)

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
        caller_of = self._entrances.caller_of
        gateway = Gateway(
            engine,
            adopt_within=self.adopt_within,
            caller_of=caller_of,
            bus=self._bus,
            before_asking=self._before_asking,
        )
        return Life(engine, gateway, self._user_lifespan(self))

    # --- running ---

    def run(self, transport: Transport = "stdio", **kwargs: Any) -> None:
        """Serve until the end of input or a signal; then let requests and calls go in good order."""
        match transport:
            case "stdio":
                serve_stdio(self, drain=self._drain, on_cancel=self._reception.cancelled)
            case "streamable-http":
                host, port = kwargs.pop("host", "127.0.0.1"), kwargs.pop("port", 8000)
                app = self.streamable_http_app(host=host, **kwargs)
                serve_http(app, host=host, port=port, **self._http_options(app, **kwargs))
            case "sse":
                super().run("sse", **kwargs)

    async def run_stdio_async(self) -> None:
        await run_stdio(self, drain=self._drain, on_cancel=self._reception.cancelled)

    async def run_streamable_http_async(self, *, host: str = "127.0.0.1", port: int = 8000, **kwargs: Any) -> None:
        app = self.streamable_http_app(host=host, **kwargs)
        await run_http(app, host=host, port=port, **self._http_options(app, **kwargs))

    def _http_options(self, app: Starlette, *, streamable_http_path: str = "/mcp", **_: Any) -> dict[str, Any]:
        level = self.settings.log_level.lower()
        on_listening = partial(self._entrances.bound, app)
        return {
            "drain": self._drain,
            "log_level": level,
            "on_listening": on_listening,
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
        self._entrances.add(app, host_check=checks)
        app.add_middleware(WireMiddleware, wires=self._wires)
        return app

    async def _drain(self) -> None:
        self._reception.drain()
        close_listens(self)
        self._wires.end_streams()

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
            with self._reception.ordinarily(name, request_of(context)):
                return await super().call_tool(name, arguments, context)
        try:
            values = durable.parameters.validate(arguments)
        except ValidationError as error:
            raise ToolError(f"Error executing tool {name}: {error}") from error
        except MCPError:
            raise
        except Exception as error:
            raise UnexpectedToolError(f"Error executing tool {name}") from error
        request = request_of(context)
        handoff = self._handoffs.of(durable, request)
        with answering(context, arguments):
            try:
                return await self._reception.answer(durable, arguments, values, request, tool_result, handoff)
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
                    from perdure.protocol.handles import or_handle

                    tool.output_schema = or_handle(tool.output_schema)
        return tools

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[App, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        _refuse_in_body(f"get_prompt({name!r})")
        with self._reception.ordinarily(name, request_of(context)), answering(context, arguments or {}):
            return await super().get_prompt(name, arguments, context)

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[App, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        _refuse_in_body(f"read_resource({str(uri)!r})")
        with self._reception.ordinarily(str(uri), request_of(context)), answering(context, str(uri)):
            try:
                return await super().read_resource(uri, context)
            except AskedInstead as asked:
                return asked.result

    async def _hear_cancels(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None and (note := cancel_in_memory(ctx)) is not None:
            self._reception.cancelled(note)
        return await call_next(ctx)


@asynccontextmanager
async def _no_lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    yield {}


def _entered_by_the_sdk(server: MCPServer[Any]) -> AbstractAsyncContextManager[Any]:
    return cast("DurableMCP[Any]", server).entered()


def _refuse_in_body(what: str) -> None:
    if (effects := current_effects()) is not None:
        raise EffectOutsideStep(what, effects.call_id)
