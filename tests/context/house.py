"""A server's part, by hand: functions of a few lines, served by an engine in memory, and who asks for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from perdure.calls import EVERYONE, Call, Calls
from perdure.context import DurableContext
from perdure.core.codec import ANY
from perdure.core.commands import Work
from perdure.core.retry import ONCE
from perdure.effects import Effects
from perdure.engine import BodyFunction, CallFacts, CallView, Engine, Function, Notice, Principal, Request, WholeStep
from perdure.engines.embedded.engine import Embedded
from perdure.job import Arguments, Job
from perdure.signal import Signal
from perdure.store import Store
from perdure.tool import Options, resolve

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

LOGGER = logging.getLogger("perdure.house")

ANN = Principal("ann")
BOB = Principal("bob")


class House:
    """The host of its functions: what they return goes through no annotation, and anybody may be asking."""

    state = "what the lifespan yielded"
    sampler = None

    def __init__(self) -> None:
        self.engine = Embedded("memory:")
        self.functions: list[Function] = []
        self.notices: list[Notice] = []
        self._registered: dict[str, _Registered] = {}
        self.calls = Calls(lambda: self.engine, caller=EVERYONE, code=self)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[House]:
        async with asyncio.timeout(20), self.engine.serve(self.functions, notices=self.notices.append):
            yield self

    # --- what can be asked for ---

    def body(self, main: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> str:
        """`main(ctx, …)` as a tool; its name."""
        registered = self._register(main, options)
        names = {signal.name for signal in options.get("signals", ())}

        async def run(effects: Effects, facts: CallFacts, arguments: bytes) -> bytes:
            context: DurableContext[str] = DurableContext(
                effects,
                host=self,
                principal=facts.principal,
                caller=facts.caller,
                calls=self.calls_of(facts.caller),
                logger=LOGGER,
                signals=names,
            )
            return ANY.encode(await main(context, **registered.arguments.decode(arguments)))

        self.functions.append(Function(registered.function, registered.tool, "job", BodyFunction(run), self))
        return registered.tool

    def job(
        self, main: Callable[Concatenate[DurableContext[Any], P], Coroutine[Any, Any, T]], **options: Any
    ) -> Job[P, T]:
        name = self.body(main, **options)
        return Job(self._registered[name])

    def whole(self, main: Callable[..., Awaitable[Any]]) -> str:
        """`main(…)` as a tool without a context; its name."""
        registered = self._register(main, {})

        def work(facts: CallFacts, arguments: bytes) -> Work:
            return Work(lambda: main(**registered.arguments.decode(arguments)), ANY.encode, ONCE)

        self.functions.append(Function(registered.function, registered.tool, "job", WholeStep(work, False), self))
        return registered.tool

    def store(self, name: str, type: type[V], *, per_principal: bool = False) -> Store[V]:
        return Store(name, type, engine=lambda: self.engine, per_principal=per_principal)

    def _register(self, main: Callable[..., Any], options: dict[str, Any]) -> _Registered:
        arguments = Arguments(main, without="ctx")
        resolved = resolve("body", False, False, cast("Any", options), {})
        registered = _Registered(main.__name__, f"tests:{main.__name__}", arguments, resolved, self)
        self._registered[registered.tool] = registered
        return registered

    # --- who asks ---

    async def ask(self, tool: str, /, by: Principal | None = ANN, **arguments: Any) -> Any:
        """Start a call and wait for its outcome."""
        return await (await self.begin(tool, by, **arguments)).result()

    async def begin(self, tool: str, /, by: Principal | None = ANN, **arguments: Any) -> Call[Any]:
        return await self.calls.of(by).start(tool, arguments)

    # --- perdure.calls.Code ---

    def request(self, tool: str, arguments: Mapping[str, Any]) -> Request:
        registered = self._registered[tool]
        job: Job[..., Any] = Job(registered)
        return job.request(arguments)

    def decode_result(self, view: CallView) -> Any:
        assert view.outcome is not None
        return ANY.decode(view.outcome)

    def signal(self, tool: str, name: str) -> Signal[Any] | None:
        return next((signal for signal in self._registered[tool].options.signals if signal.name == name), None)

    # --- perdure.effects.Host ---

    def calls_of(self, caller: str | None) -> Calls:
        return Calls(lambda: self.engine, caller=caller, code=self)


@dataclass
class _Registered:
    """A function as `perdure.job` wants it."""

    tool: str
    function: str
    arguments: Arguments
    options: Options
    house: House

    def decode(self, outcome: bytes) -> Any:
        return ANY.decode(outcome)

    def engine(self) -> Engine:
        return self.house.engine


async def seen(calls: Calls, call_id: str, wanted: Callable[[CallView], bool]) -> CallView:
    """The first view of a call that is as wanted."""
    async with asyncio.timeout(10):
        async for view in calls.watch(call_id):
            if wanted(view):
                return view
    raise AssertionError("the call ended before that")


SOON = timedelta(milliseconds=20)
LATER = timedelta(days=1)
