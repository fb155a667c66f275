"""`Trial`: a server under test, with its time and its crashes in the test's hands."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from mcp import Client

from perdure.calls import Asker, Call, Calls, asker_here, start_detached
from perdure.engine import Principal
from perdure.job import Job
from perdure.server import DurableMCP
from perdure.step import Step, has_reconcile, stubbed
from perdure.testing.engine import TrialEngine
from perdure.testing.quiet import result_of, until_quiet
from perdure.testing.stub import Stub

P = ParamSpec("P")
T = TypeVar("T")
Held = TypeVar("Held")

_OMITTED: Any = object()


class Trial:
    """A server that runs in memory, at a time of its own which passes only by `advance`.

    Steps do what they do, in real time, unless they are stubbed. Every body that ends is replayed as a check.
    """

    client: Client
    """The official client, connected in memory: the machine's own user."""
    calls: Calls
    """All calls of the server."""

    def __init__(self, mcp: DurableMCP[Any], engine: TrialEngine, client: Client, stubs: ExitStack) -> None:
        self.client = client
        self.calls = mcp.calls
        self._mcp = mcp
        self._engine = engine
        self._stubs = stubs

    @property
    def now(self) -> datetime:
        """The time in the trial, UTC; it begins with the next full second of the real one."""
        return datetime.fromtimestamp(self._engine.clock.now(), UTC)

    def stub(
        self,
        step: Step[P, T],
        fn: Callable[P, Awaitable[T]] | Callable[P, T],
        *,
        reconcile: Callable[P, Awaitable[T | None]] = _OMITTED,
    ) -> Stub[P, T]:
        """Let `fn` run in place of a step, until the trial ends; what it returns is recorded as the step's would be.

        A step with `reconcile` is asked through this one; without it, what `fn` has returned under the same
        idempotency key is found.
        """
        stub = Stub[P, T](fn)
        asks = has_reconcile(step)
        if reconcile is not _OMITTED and not asks:
            raise TypeError(f"Step {step.name!r} has no reconcile, so nothing would ask its stub's.")
        found = (stub.find if reconcile is _OMITTED else reconcile) if asks else None
        self._stubs.enter_context(stubbed(step, stub.run, found))
        return stub

    async def start(
        self,
        tool: str | Job[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        principal: Principal | None = None,
    ) -> Call[Any]:
        """Start a durable tool or a job for `principal`, else for the machine's own user, and do not wait."""
        given: Mapping[str, Any] = {} if arguments is None else arguments
        if isinstance(tool, str):
            calls = self.calls if principal is None else self.calls.of(principal)
            call_id = (await calls.start(tool, given)).id
        else:
            asker = asker_here() if principal is None else Asker(principal.caller, principal)
            call_id = await start_detached(lambda: self._engine, tool.request(given), asker)
        return Call(
            call_id, lambda timeout: result_of(self._engine, call_id, self.calls.result(call_id, timeout=timeout))
        )

    async def advance(self, delta: timedelta) -> None:
        """Let time pass: what is due comes in its order, and each time all that follows from it is done first.

        Raises as `settle` does.
        """
        if delta < timedelta(0):
            raise ValueError(f"Time does not go back: advance({delta!r})")
        until = self._engine.clock.now() + delta.total_seconds()
        await self.settle()
        while self._engine.clock.ring_next(until):
            await self.settle()

    async def settle(self) -> None:
        """Until no step runs and nothing is left to do before time passes.

        Steps that do real I/O are waited for, for some seconds; then `TimeoutError` names them.
        """
        await until_quiet(self._engine)

    async def crash(self) -> None:
        """Lose everything that is not in the journal, as `kill -9` does, and recover.

        Bodies and running steps are gone, a step's outcome that was not recorded is discarded. The test and the client
        go on waiting for what they wait for.
        """
        await self._engine.crash()


def trial(mcp: DurableMCP[Any]) -> AbstractAsyncContextManager[Trial]:
    """Serve `mcp` in memory, with a journal and a clock of its own; its engine is not touched.

    On the way out a body that did not replay as it ran raises `AssertionError`.
    """
    return trial_on(mcp, TrialEngine(next_second()))


def next_second() -> float:
    # Whole seconds add up without rounding: a timer of five days is due after five days, not a microsecond later.
    return float(math.ceil(time.time()))


@asynccontextmanager
async def trial_on(mcp: DurableMCP[Any], engine: TrialEngine) -> AsyncGenerator[Trial]:
    with ExitStack() as stubs, mcp.on(engine):
        async with mcp.serving(), in_own_task(lambda: Client(mcp)) as client:
            try:
                yield Trial(mcp, engine, client, stubs)
            finally:
                engine.note_worker()
    if engine.replay_differences:
        raise AssertionError(
            "A body does not replay as it ran, so a crash may change what it does:\n  "
            + "\n  ".join(engine.replay_differences)
            + "\n`perdure check` looks for the clock, chance and I/O in bodies."
        )


@asynccontextmanager
async def in_own_task(make: Callable[[], AbstractAsyncContextManager[Held]]) -> AsyncGenerator[Held]:
    """Whoever makes fixtures of trials may enter and leave them in different tasks, which the client would not bear."""
    entered: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
    leaving = asyncio.Event()

    async def hold() -> None:
        try:
            async with make() as held:
                entered.set_result(held)
                await leaving.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    holder = asyncio.get_running_loop().create_task(hold(), context=Context())
    try:
        yield await entered
    finally:
        leaving.set()
        await holder
