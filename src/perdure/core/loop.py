"""The event loop that a body runs in: asyncio without I/O and without a clock.

It knows time, tasks and timers, and nothing of what a body asks for. All that could differ between two lives of
a call is made here: the order of tasks, the places of asks, the ends of async generators.
"""

# pyright: reportPrivateUsage=false
# An event loop is made of asyncio's own parts: handles, the running loop, the current task.

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import Context, copy_context
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from perdure.core import tasks
from perdure.core.commands import Command, DropTimer, SetTimer
from perdure.core.dropping import expel, expel_generator
from perdure.core.frames import line_of_body
from perdure.core.generators import OpenGenerators
from perdure.core.tasks import BodyFuture, BodyTask, Branch
from perdure.errors import EffectOutsideStep, Parked, Spinning

if TYPE_CHECKING:
    from perdure.core.body import Body

MOST_CALLBACKS = 100_000
"""In one feed."""

BUSY = MOST_CALLBACKS - 1_000
"""From here on a feed is looked at more closely."""

MOST_RELEASES = 50
"""How often anyio goes on to cancel in one feed that is busy with nothing else."""

MOST_REFUSALS = 50
"""How often a dropped body that goes on asking gets `Parked`; then it waits for what never comes, and is set aside."""

log = logging.getLogger("perdure")

_swap_current_task: Any = getattr(asyncio.tasks, "_swap_current_task", None)  # from 3.12 on
# Up to 3.11 the public function is slow, and the table is there.
_current_task: Any = asyncio.current_task if sys.version_info >= (3, 12) else vars(asyncio.tasks)["_current_tasks"].get
_Outer = tuple[asyncio.AbstractEventLoop | None, Any, Any]


class BodyLoop(asyncio.AbstractEventLoop):
    def __init__(self, call_id: str, effects: Body) -> None:
        self.call_id = call_id
        self.effects: Body | None = effects
        self.commands: list[Command] = []
        self.undone = False
        """Something that was asked has been given up since, perhaps in the same feed."""
        self.outer: asyncio.AbstractEventLoop | None = None
        """While it runs: the thread's own loop."""
        self.timers: dict[str, float] = {}
        self.now = 0.0
        self.silent = False
        """In replay what goes wrong in a callback was logged before."""
        # A deque while it runs; a body that waits is to be small.
        self._ready: deque[asyncio.Handle] | list[asyncio.Handle] = []
        self._idle: list[asyncio.Handle] = []
        self._released = 0
        self._releases_left = MOST_RELEASES
        self._handles: dict[str, _Timer] = {}
        self._woken: list[tuple[int, asyncio.Handle]] = []
        self.callbacks_left = MOST_CALLBACKS
        self._ordinal = 0
        self._root = Branch("-")
        """Of callbacks, which run in no task."""
        self._tasks: list[BodyTask] = []
        self._prune_at = 16
        self._generators: OpenGenerators | None = None
        self.is_dying = False
        """The body was dropped: its coroutines are made to leave, or have left."""
        self._gone = False
        self._refusals_left = MOST_REFUSALS

    # --- running ---

    def order_from(self, seed: int) -> None:
        """The same ordinals in every life of a call, others in other calls: asyncio keeps all tasks in one table."""
        self._ordinal = seed * 0x9E3779B97F4A7C15 & (1 << 60) - 1

    def next_ordinal(self) -> int:
        self._ordinal += 1
        return self._ordinal

    def run(self) -> None:
        """Run what is ready until nothing is. Raises Spinning; a KeyboardInterrupt of the body comes through."""
        if not self._ready and not self._idle:
            return
        ready = self._ready = deque(self._ready)
        if self._idle:
            ready.extend(self._idle)
            self._idle.clear()
        self._releases_left = MOST_RELEASES
        left = self.callbacks_left
        outer = self._enter()
        try:
            while ready or (self._idle and self._release(ready)):
                if not left:
                    raise Spinning(self.call_id, MOST_CALLBACKS)
                left -= 1
                handle = ready.popleft()
                if handle._cancelled or (left < BUSY and self._holds_back(handle)):
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self._note_failure(handle, error)
        finally:
            self.callbacks_left = left
            self._ready = []
            self._leave(*outer)

    # anyio cancels those who clean up again and again, until what they wait for has come, and another loop turns with
    # it until then. Here it would never come. So in a busy feed anyio goes on only when nothing else is ready, and
    # after a while not before the next event.

    def _holds_back(self, handle: asyncio.Handle) -> bool:
        if self._released:
            self._released -= 1
            return False
        if getattr(handle._callback, "__name__", "") != tasks.DELIVERS:
            return False
        self._idle.append(handle)
        return True

    def _release(self, ready: deque[asyncio.Handle]) -> bool:
        if not self._releases_left:
            return False
        self._releases_left -= 1
        self._released = len(self._idle)
        ready.extend(self._idle)
        self._idle.clear()
        return True

    def _enter(self) -> _Outer:
        """Take the place of the thread's own loop, with its current task out of the way: 3.14 insists on it."""
        loop = asyncio._get_running_loop()
        task = None
        # In a callback there is none, and up to 3.13 the swap raises KeyError then.
        if _swap_current_task is not None and loop is not None and _current_task(loop) is not None:
            task = _swap_current_task(loop, None)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._begin_generator, self._lose_generator)
        asyncio._set_running_loop(self)
        self.outer = loop
        return loop, task, hooks

    def _leave(self, loop: asyncio.AbstractEventLoop | None, task: Any, hooks: Any) -> None:
        self.outer = None
        asyncio._set_running_loop(loop)
        sys.set_asyncgen_hooks(*hooks)
        if task is not None:
            _swap_current_task(loop, task)

    def _note_failure(self, handle: asyncio.Handle, error: BaseException) -> None:
        # A task has its SystemExit as its error, as any other; asyncio would let it end the process.
        if isinstance(error, SystemExit) and isinstance(getattr(handle._callback, "__self__", None), asyncio.Task):
            return
        self.call_exception_handler({"message": f"Exception in {handle!r}", "exception": error})

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dying:
            self._ready.append(handle)
        return handle

    # --- time ---

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        key = self.branch().next_timer()
        timer = _Timer(key, when, callback, args, self, context)
        if not self.refuses():
            self.timers[key] = when
            self._handles[key] = timer
            self.commands.append(SetTimer(key, when))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def fire(self, key: str) -> None:
        """Raises KeyError when no such timer is armed."""
        del self.timers[key]
        self._ready.append(self._handles.pop(key))

    def drop_timers(self) -> None:
        for timer in list(self._handles.values()):
            timer.cancel()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        key = cast(_Timer, handle).key
        if not self.is_dying and self._handles.pop(key, None) is not None:
            del self.timers[key]
            self.commands.append(DropTimer(key))
            self.undone = True

    # --- tasks ---

    def start(self, main: Coroutine[Any, Any, Any]) -> BodyTask:
        """The first task, in an empty context: what a request has in its own would be gone in another life."""
        return self._add_task(BodyTask(main, self, Branch("0"), Context()))

    def task_at(self, path: str) -> BodyTask | None:
        return next((task for task in self._tasks if task.branch.path == path and not task.done()), None)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **_: Any,  # eager_start, from 3.14 on: when a task starts is not for the body to say
    ) -> asyncio.Task[Any]:
        if self.is_dying:
            coro.close()
            self.refuses()
            return cast("asyncio.Task[Any]", BodyFuture(self))
        branch = self.branch()
        made_by = sys._getframe(1)
        if not tasks.is_ensure_future(made_by):
            branch = branch.fork()
        elif tasks.is_for_as_completed(made_by):
            raise RuntimeError(
                "asyncio.as_completed starts coroutines in an order that no replay repeats: "
                "give it tasks (asyncio.create_task)"
            )
        elif not tasks.is_for_wait_for(made_by):
            branch = branch.fork()
        return self._add_task(BodyTask(coro, self, branch, context or copy_context(), name=name))

    def create_future(self) -> asyncio.Future[Any]:
        self.refuses()
        if tasks.waits_in_no_order(sys._getframe(1)):
            raise RuntimeError(
                "asyncio.wait hands out what gather() returned in an order that no replay repeats: "
                "give it tasks (asyncio.create_task)"
            )
        return BodyFuture(self)

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: Any) -> None:
        raise RuntimeError("The tasks of a body are made by perdure, so that they replay in order.")

    def had_only(self, task: BodyTask) -> bool:
        """No other task and no generator, as most bodies: nothing is left when that task is done."""
        return len(self._tasks) == 1 and self._tasks[0] is task and self._generators is None

    def live_tasks(self) -> list[BodyTask]:
        """In the order in which they were made."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._prune_at = 16 + 2 * len(self._tasks)
        return self._tasks

    def _add_task(self, task: BodyTask) -> BodyTask:
        # asyncio keeps its tasks by weak references: one that nobody holds would end when the collector comes.
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self.live_tasks()
        return task

    def branch(self) -> Branch:
        """Where in the body this is."""
        return getattr(_current_task(self), "branch", self._root)

    @contextmanager
    def waking_in_order(self, ordinal: int) -> Generator[None]:
        """What is made ready in here goes before what was just made ready so for greater ordinals."""
        ready, woken = self._ready, self._woken
        before = len(ready)
        yield
        mine = [(ordinal, ready.pop()) for _ in range(len(ready) - before)]
        later: list[tuple[int, asyncio.Handle]] = []
        while woken and ready and ready[-1] is woken[-1][1] and woken[-1][0] > ordinal:
            later.append(woken.pop())
            ready.pop()
        if not later and not (woken and ready and ready[-1] is woken[-1][1]):
            woken.clear()  # something else was made ready since
        for each in reversed(later + mine):
            woken.append(each)
            ready.append(each[1])

    # --- what goes wrong in callbacks ---

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        if not self.silent and not self.is_dying:
            log.error("call %s: %s", self.call_id, context.get("message"), exc_info=context.get("exception"))

    def default_exception_handler(self, context: Mapping[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        return None

    def set_exception_handler(self, handler: Any) -> None:
        raise RuntimeError("What goes wrong in a body is logged by perdure.")

    # --- async generators ---

    def _begin_generator(self, generator: Any) -> None:
        if self._generators is None:
            self._generators = OpenGenerators()
        self._generators.begin(generator, self.branch().next_generator())

    def _lose_generator(self, generator: Any) -> None:
        if self._gone or self._generators is None:
            return
        path = self._generators.lose(generator, now=asyncio._get_running_loop() is self and not self.is_dying)
        if path is not None:
            self._close(generator, path)

    def close_generators(self) -> list[BodyTask]:
        """Begin to close those that the body left open."""
        return [self._close(generator, path) for path, generator in self._take_generators()]

    def _take_generators(self) -> list[tuple[str, AsyncGeneratorType[Any, Any]]]:
        return [] if self._generators is None else self._generators.take_all()

    def _close(self, generator: AsyncGeneratorType[Any, Any], path: str) -> BodyTask:
        return self._add_task(BodyTask(generator.aclose(), self, Branch(path), copy_context(), closes=True))

    # --- leaving memory ---

    def refuses(self) -> bool:
        """Raises Parked in a body that was dropped; True when that was in vain: then it waits for what never comes."""
        if not self.is_dying:
            return False
        if self._refusals_left:
            self._refusals_left -= 1
            raise Parked
        return True

    def drop(self) -> None:
        """Make every coroutine leave, newest first, on this thread and now; nothing they ask is heard."""
        self.is_dying = True
        self._ready.clear()
        self._idle.clear()
        interrupt: KeyboardInterrupt | None = None
        outer = self._enter()
        try:
            for task in reversed(self._tasks):
                if not task.done():
                    task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]  # in no stub
                    interrupt = expel(task.get_coro(), task.home, self.call_id) or interrupt
            while left_open := self._take_generators():
                for _, generator in reversed(left_open):
                    interrupt = expel_generator(generator, self.call_id) or interrupt
        finally:
            self._leave(*outer)
            self.let_go()
        if interrupt is not None:
            raise interrupt

    def let_go(self) -> None:
        """Nothing runs here any more. Without its cycles a call leaves memory at once, and not with the collector."""
        self._gone = True
        self.effects = None
        self._tasks = []
        self._woken = []
        self._idle = []
        self._handles = {}


class _Timer(asyncio.TimerHandle):
    __slots__ = ("key",)

    def __init__(
        self,
        key: str,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: BodyLoop,
        context: Context | None,
    ) -> None:
        self.key = key
        super().__init__(when, callback, args, loop, context)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(self: BodyLoop, *_: Any, **__: Any) -> NoReturn:
        raise EffectOutsideStep(f"loop.{name}()", self.call_id, line_of_body())

    refuse.__name__ = name
    return refuse


# Whatever a loop can do and this one does not: sockets, pipes, processes, threads, signals, being run or stopped.
for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(BodyLoop):
        setattr(BodyLoop, _name, _refuse(_name))
