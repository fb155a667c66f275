"""The tasks and futures of a body: in the same order in every life, each task with its place."""

# pyright: reportPrivateUsage=false
# asyncio's own frames are looked for: they tell a task of the body from one that asyncio makes for itself.

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from hashlib import blake2b
from threading import Thread
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from perdure.core.frames import line_of_body
from perdure.errors import EffectOutsideStep

if TYPE_CHECKING:
    from perdure.core.loop import BodyLoop


DELIVERS = "_deliver_cancellation"
"""anyio's function that cancels the tasks in a scope."""

LONGEST_PATH = 120
"""In characters. Tasks that each start their successor would otherwise have keys as long as their history."""


class Branch:
    """One line of a body's execution: its path, and how much was asked for on it."""

    __slots__ = ("asks", "branches", "generators", "patches", "path", "timers")

    def __init__(self, path: str) -> None:
        self.path = path
        self.asks = self.timers = self.branches = self.generators = 0
        self.patches: dict[str, tuple[int, int]] = {}

    def next_timer(self) -> str:
        self.timers += 1
        return f"{self.path}/t{self.timers}"

    def patch(self, change: str) -> str:
        """The place of a `patched`: it is no ask, so that one may be added, and a loop without asks comes by again."""
        asks, times = self.patches.get(change, (self.asks, 0))
        times = times + 1 if asks == self.asks else 1
        self.patches[change] = (self.asks, times)
        return f"{self.path}/{self.asks}" + (f"#{times}" if times > 1 else "")

    def fork(self) -> Branch:
        self.branches += 1
        path = f"{self.path}.{self.branches}"
        if len(path) > LONGEST_PATH:
            path = "~" + blake2b(path.encode(), digest_size=12).hexdigest()
        return Branch(path)

    def next_generator(self) -> str:
        self.generators += 1
        return f"{self.path}.g{self.generators}"


class BodyTask(asyncio.Task[Any]):
    """asyncio keeps tasks in sets: the hash is an ordinal, so that they come out in one order in every life."""

    __slots__ = ("_ordinal", "_own_loop", "branch", "closes", "home")

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, Any, Any],
        loop: BodyLoop,
        branch: Branch,
        context: Context,
        *,
        name: str | None = None,
        closes: bool = False,
    ) -> None:
        self._own_loop = loop
        self._ordinal = loop.next_ordinal()
        self.branch = branch
        self.home = context
        self.closes = closes
        """It closes an async generator that was left open."""
        super().__init__(coro, loop=loop, name=name or branch.path, context=context)

    @property
    def starter(self) -> BodyTask | None:
        """The task that started it, if that has not ended."""
        return self._own_loop.task_at(self.branch.path.rpartition(".")[0])

    def __hash__(self) -> int:
        return self._ordinal

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        if isinstance(getattr(fn, "__self__", None), Thread):
            # anyio's worker, before it is given its work: it would answer to a loop that takes nothing from threads,
            # and the body would wait for ever.
            fn(self)
            raise EffectOutsideStep("a thread", self._own_loop.call_id, line_of_body())
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        if sys._getframe(1).f_code.co_name != DELIVERS:
            return super().cancel(msg)
        # anyio cancels the tasks in a scope by their scopes, which are in a set, ordered by their addresses.
        with self._own_loop.waking_in_order(self._ordinal):
            return super().cancel(msg)


class BodyFuture(asyncio.Future[Any]):
    """What `loop.create_future` gives, ordered as tasks are: `shield` puts it into the hands of the body."""

    __slots__ = ("_ordinal",)

    def __init__(self, loop: BodyLoop) -> None:
        self._ordinal = loop.next_ordinal()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._ordinal


def is_for_wait_for(frame: FrameType) -> bool:
    """On 3.11 `wait_for` runs a coroutine in a hidden task; from 3.12 on it does not, and keys must not tell."""
    return _asker(frame).f_code is _WAIT_FOR


def is_for_as_completed(frame: FrameType) -> bool:
    asker = _asker(frame)
    # Up to 3.11 the comprehension in it has a frame of its own.
    return asker.f_code in _AS_COMPLETED or (asker.f_back is not None and asker.f_back.f_code in _AS_COMPLETED)


def is_ensure_future(frame: FrameType) -> bool:
    return frame.f_code in _ENSURE_FUTURE


def waits_in_no_order(frame: FrameType) -> bool:
    """`asyncio.wait` on several futures of which one is hashed by its address: what `gather` returns is."""
    if frame.f_code is not _WAIT:
        return False
    futures = frame.f_locals["fs"]
    return len(futures) > 1 and not all(isinstance(future, BodyTask | BodyFuture) for future in futures)


def _asker(frame: FrameType) -> FrameType:
    while frame.f_code in _ENSURE_FUTURE and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _codes(*functions: Any) -> frozenset[CodeType]:
    return frozenset(function.__code__ for function in functions if function is not None)


_ENSURE_FUTURE = _codes(asyncio.ensure_future, vars(asyncio.tasks).get("_ensure_future"))
_WAIT_FOR = asyncio.wait_for.__code__
_WAIT: CodeType = vars(asyncio.tasks)["_wait"].__code__
# A generator function; from 3.13 on a class.
_AS_COMPLETED = _codes(
    asyncio.as_completed, *(cls.__init__ for cls in [vars(asyncio.tasks).get("_AsCompletedIterator")] if cls)
)
