"""`tool`, `prompt`, `resource`, `job` and `store`: how functions get into a server.

What a function is the registry decides. Where the SDK must not see our context, it is given a stand-in; what it is
told of the rest is what a plain server would tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from mcp.shared.uri_template import UriTemplate
from mcp_types import Annotations, Icon, InputRequiredResult, ToolAnnotations
from typing_extensions import TypeVar as TypeVarWithDefault
from typing_extensions import Unpack

from perdure.context import DurableContext
from perdure.engine import Function
from perdure.job import Job
from perdure.protocol.answer import prompt_error, resource_error
from perdure.protocol.current_request import current_context, current_raw, request_of
from perdure.protocol.outcomes import (
    prompt_messages,
    prompt_outcome,
    resource_content,
    resource_outcome,
    tool_outcome,
)
from perdure.protocol.questions import AskedInstead
from perdure.protocol.reception import Reception
from perdure.protocol.sdk import registered_tool
from perdure.registry import Plan, Registry
from perdure.store import Store
from perdure.tool import CallOptions, Durable, Outcome, Parameters, Registration, shim_of

App = TypeVarWithDefault("App", default=Any)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class JobDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[DurableContext[Any], P], Coroutine[Any, Any, T]], /) -> Job[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Job[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Job[P, T]: ...


class Decorators(MCPServer[App]):
    """The half of `DurableMCP` that its author uses before it runs."""

    _registry: Registry
    _reception: Reception
    _tools: dict[str, Durable]
    """Those that are durable."""

    @property
    def functions(self) -> Sequence[Function]:
        """What the engine runs, also what was registered since it was asked for."""
        return self._registry.functions

    @property
    def registrations(self) -> Sequence[Registration]:
        """All that was registered here, ordinary or durable, in its order; what was added past us is not known."""
        return self._registry.registrations

    # --- tools ---

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
        """Register a tool: a body if it takes a `DurableContext`, else one whole step, else ordinary.

        It stays ordinary with `durable=False`, where it only reads, and where it asks its client through the SDK.
        """
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

    # --- prompts and resources ---

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
            prompt_name = name or fn.__name__
            outcome = prompt_outcome(prompt_name, description or fn.__doc__ or "")
            sdk_register = sdk_prompt(prompt_name, title, description, icons)
            self._register_read(fn, "prompt", prompt_name, options, sdk_register, outcome, self._prompted)
            return fn

        if callable(name):
            sdk_prompt(name)  # raises, with the SDK's advice
        return register

    async def _prompted(self, durable: Durable, values: dict[str, Any]) -> Any:
        raw = current_raw()
        arguments = raw if isinstance(raw, Mapping) else values
        try:
            return await self._answer(durable, arguments, values, prompt_messages)
        except Exception as error:
            raise prompt_error(error) from error

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
        read = partial(self._read, UriTemplate.parse(uri))

        def register(fn: F) -> F:
            self._register_read(fn, "resource", uri, options, sdk_register, resource_outcome(uri), read)
            return fn

        return register

    async def _read(self, template: UriTemplate, durable: Durable, values: dict[str, Any]) -> Any:
        uri = current_raw()
        raw = template.match(uri) if isinstance(uri, str) else values
        try:
            content = await self._answer(durable, raw or {}, values, resource_content)
        except Exception as error:
            raise resource_error(error) from error
        if isinstance(content, InputRequiredResult):
            raise AskedInstead(content)
        return content

    def _register_read(
        self,
        fn: Callable[..., Any],
        kind: Literal["prompt", "resource"],
        name: str,
        options: CallOptions,
        sdk_register: Callable[[Callable[..., Any]], Any],
        outcome: Outcome,
        answer: Callable[[Durable, dict[str, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        """What is only read: ordinary unless something makes it durable; then `answer` answers for it."""
        plan = self._registry.plan(fn, kind, options, read_only=True, idempotent=True)
        if plan.way == "ordinary":
            sdk_register(fn)
        else:
            self._registry.check_free(fn, name)

            async def stand_in(values: dict[str, Any]) -> Any:
                return await answer(durable, values)

            shim = shim_of(fn, plan.hints, plan.our_context or plan.sdk_context, stand_in)
            parameters = _parameters_of(shim)
            sdk_register(shim)
            durable = self._registry.keep(fn, kind, name, plan, parameters, outcome)
        self._registry.note(kind, name, plan, fn)

    async def _answer(
        self, durable: Durable, raw: Mapping[str, Any], values: dict[str, Any], result_of: Callable[[bytes], T]
    ) -> T | InputRequiredResult:
        return await self._reception.answer(durable, raw, values, request_of(current_context()), result_of)

    # --- jobs and stores ---

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
        return Store(name, type, engine=lambda: self._reception.engine, per_principal=per_principal)


def _parameters_of(shim: Callable[..., Any]) -> Parameters:
    model = func_metadata(shim, structured_output=False).arg_model
    return Parameters(model, lambda raw: model.model_validate(raw).model_dump_one_level())


async def _never_called(_: dict[str, Any]) -> Any:
    raise AssertionError("a durable tool is answered before the SDK calls its function")
