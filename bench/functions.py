"""Functions as the engine knows them, without a server around: bodies of steps that add one, and whole steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from itertools import count
from typing import Any

from perdure.core.codec import codec_for, digest
from perdure.core.commands import Work
from perdure.core.retry import ONCE
from perdure.effects import Effects
from perdure.engine import BodyFunction, CallFacts, CallView, Engine, Function, Request, SignalSpec, WholeStep

NUMBER = codec_for(int)

Main = Callable[[Effects, int], Coroutine[Any, Any, int]]


class NoHost:
    """The server of functions that have none."""

    state = None
    sampler = None

    def calls_of(self, caller: str | None) -> Any:
        raise NotImplementedError


def body(main: Main) -> Function:
    async def run(effects: Effects, facts: CallFacts, arguments: bytes) -> bytes:
        return NUMBER.encode(await main(effects, NUMBER.decode(arguments)))

    name = main.__name__
    return Function(f"bench:{name}", name, "tool", BodyFunction(run), NoHost())


def step(effects: Effects, run: Callable[[int], Awaitable[int]], number: int) -> Awaitable[int]:
    work = Work(lambda: run(number), NUMBER.encode, ONCE, context=copy_context())
    return effects.step(run.__name__, digest((number,), {}), work, NUMBER.decode)


async def add_one(number: int) -> int:
    return number + 1


async def no_step(effects: Effects, number: int) -> int:
    return number


async def one_step(effects: Effects, number: int) -> int:
    return await step(effects, add_one, number)


async def ten_steps(effects: Effects, number: int) -> int:
    for _ in range(10):
        number = await step(effects, add_one, number)
    return number


def _whole_step(facts: CallFacts, arguments: bytes) -> Work:
    number = NUMBER.decode(arguments)
    return Work(lambda: add_one(number), NUMBER.encode, ONCE, context=copy_context())


NONE = body(no_step)
ONE = body(one_step)
TEN = body(ten_steps)
WHOLE = Function("bench:whole", "whole", "tool", WholeStep(_whole_step, rerun=False), NoHost())

_numbers = count()


def request_for(function: Function, *, signals: tuple[SignalSpec, ...] = ()) -> Request:
    """A wish like no other before."""
    number = next(_numbers)
    return Request(
        function=function.name,
        tool=function.tool,
        arguments=b"%d" % number,
        digest=digest((number,), {}),
        caller="machine",
        signals=signals,
    )


async def call(engine: Engine, function: Function) -> CallView:
    """Start a call and see it end."""
    accepted = await engine.start(request_for(function))
    async for view in engine.watch(accepted.call_id):
        if view.is_over:
            if view.status != "completed":
                raise RuntimeError(f"{function.name} ended as {view.status}: {view.error}")
            return view
    raise RuntimeError(f"{function.name} ended unseen")
