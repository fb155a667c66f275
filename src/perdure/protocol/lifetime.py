"""How long an engine is open: from the first who enters a server to the last who leaves it, once per event loop.

The SDK enters a server's lifespan once more for each in-memory client, and an application that mounts a server does not
enter it at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from typing import Generic, TypeVar

from perdure.effects import own_loop, running_frame
from perdure.engine import Engine, Function
from perdure.errors import PerdureError
from perdure.protocol.gateway import Gateway

App = TypeVar("App")

Lifespan = Callable[[], AbstractAsyncContextManager[App]]


class Life(Generic[App]):
    """One opening: storage, the user's lifespan, workers, requests; on the way out the reverse."""

    def __init__(self, engine: Engine, gateway: Gateway, lifespan: AbstractAsyncContextManager[App]) -> None:
        self.engine = engine
        self.gateway = gateway
        self.is_leaving = False
        self._lifespan = lifespan
        self._state: tuple[App] | None = None
        self._inside = 0
        self._begun = asyncio.get_running_loop().create_future()
        self._last_left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> App:
        if self._state is None:
            raise PerdureError("The server's lifespan is not open, so there is no state.")
        return self._state[0]

    def begin(self, functions: Sequence[Function], *, work: bool, after: Life[App] | None) -> asyncio.Task[None]:
        # In a task of its own, because who enters first need not leave last; and in an empty context, or what
        # the engine starts would run with the variables of whoever came first.
        run = self._run(functions, work, after)
        self._task = asyncio.get_running_loop().create_task(run, name="perdure", context=Context())
        return self._task

    async def _run(self, functions: Sequence[Function], work: bool, after: Life[App] | None) -> None:
        try:
            if after is not None:
                await after.ended()
            around = self._with_state()
            async with self.engine.serve(functions, work=work, notices=self.gateway.notice, around=around):
                self._begun.set_result(None)
                await self._last_left.wait()
                await self.gateway.close()
        except BaseException as error:
            if self._begun.done():
                raise
            self._begun.set_exception(error)
            self._begun.exception()  # seen, also when nobody waits any more
        finally:
            self.gateway.engine_closed()

    @asynccontextmanager
    async def _with_state(self) -> AsyncGenerator[None]:
        async with self._lifespan as state:
            self._state = (state,)
            try:
                yield
            finally:
                self._state = None

    async def enter(self) -> None:
        self._inside += 1
        await asyncio.shield(self._begun)

    async def leave(self) -> None:
        """The last one waits until all is closed, and gets what went wrong."""
        self._inside -= 1
        if self._inside == 0:
            assert self._task is not None
            self.is_leaving = True
            self._last_left.set()
            await asyncio.shield(self._task)

    async def ended(self) -> None:
        assert self._task is not None
        await asyncio.wait({self._task})


class Lifetime(Generic[App]):
    """The lives of one server, at most one at a time on an event loop."""

    def __init__(self, functions: Sequence[Function], make: Callable[[], Life[App]]) -> None:
        self._functions = functions
        self._make = make
        self._lives: dict[asyncio.AbstractEventLoop, Life[App]] = {}

    @asynccontextmanager
    async def enter(self, *, work: bool = True) -> AsyncGenerator[Life[App]]:
        """`work` counts for who comes first; the others find what that one began."""
        loop = asyncio.get_running_loop()
        life = self._lives.get(loop)
        if life is None or life.is_leaving:
            life = self._begin(loop, work=work, after=life)
        try:
            await life.enter()
            yield life
        finally:
            await life.leave()

    def _begin(self, loop: asyncio.AbstractEventLoop, *, work: bool, after: Life[App] | None) -> Life[App]:
        life = self._lives[loop] = self._make()

        def ended(_: asyncio.Task[None]) -> None:
            if self._lives.get(loop) is life:
                del self._lives[loop]

        life.begin(self._functions, work=work, after=after).add_done_callback(ended)
        return life

    @property
    def lives(self) -> list[Life[App]]:
        return list(self._lives.values())

    @property
    def current(self) -> Life[App]:
        """The life on this event loop; in a body that of the loop which feeds it, in a step's thread that of the step.

        A thread of somebody else's gets the newest.
        """
        if not self._lives:
            raise PerdureError("The server does not run here. Run it, or use `async with mcp.serving():`.")
        frame = running_frame.get()
        for loop in (own_loop(), None if frame is None else frame.loop):
            if loop is not None and (life := self._lives.get(loop)) is not None:
                return life
        return next(reversed(self._lives.values()))
