"""Functions as an engine knows them, made of small bodies, without a server around them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from perdure.core.codec import codec_for, digest
from perdure.core.commands import Work
from perdure.core.retry import ONCE, Retry
from perdure.effects import ChildAsk, Effects
from perdure.engine import BodyFunction, CallFacts, Function, Request, WholeStep

ANY = codec_for(Any)

AT_ONCE = Retry(attempts=3, first=timedelta(0))


class NoHost:
    """The server of functions that have none."""

    state = None
    sampler = None

    def calls_of(self, caller: str | None) -> Any:
        raise NotImplementedError


@dataclass
class Effect:
    """A step that counts how often it ran."""

    ran: list[Any] = field(default_factory=list[Any])


def body(
    main: Callable[..., Coroutine[Any, Any, Any]], *, name: str = "", kind: Any = "tool", check: bool = True
) -> Function:
    """`main(effects, argument)` with one JSON argument and a JSON outcome."""
    name = name or main.__name__

    async def run(effects: Effects, facts: CallFacts, arguments: bytes) -> bytes:
        return ANY.encode(await main(effects, json.loads(arguments)))

    return Function(f"tests:{name}", name, kind, BodyFunction(run), NoHost(), check=check)


def whole(run: Callable[[Any], Any], *, rerun: bool = False, retry: Retry = ONCE, threaded: bool = False) -> Function:
    name = run.__name__

    def work(facts: CallFacts, arguments: bytes) -> Work:
        return Work(lambda: run(json.loads(arguments)), ANY.encode, retry, threaded=threaded, context=copy_context())

    return Function(f"tests:{name}", name, "tool", WholeStep(work, rerun), NoHost())


def step(
    effects: Effects,
    run: Callable[..., Any],
    *args: Any,
    name: str = "",
    retry: Retry = ONCE,
    at_most_once: bool = False,
    reconcile: Callable[[], Awaitable[Any]] | None = None,
    timeout: float | None = None,
    threaded: bool = False,
) -> Awaitable[Any]:
    work = Work(
        lambda: run(*args),
        ANY.encode,
        retry,
        at_most_once=at_most_once,
        retries_unknown=at_most_once and retry is not ONCE,
        reconcile=reconcile,
        timeout=timeout,
        threaded=threaded,
        context=copy_context(),
    )
    return effects.step(name or run.__name__, digest(args, {}), work, ANY.decode)


def child_ask(function: Function, argument: Any, *, key: str | None = None) -> ChildAsk:
    arguments = json.dumps(argument).encode()
    request = Request(
        function=function.name,
        tool=function.tool,
        kind="job",
        arguments=arguments,
        digest=digest((argument,), {}),
        key=key,
    )
    return ChildAsk(function.tool, request.digest, function.name, arguments, key, None, request)


def request_for(function: Function, argument: Any = None, **options: Any) -> Request:
    arguments = json.dumps(argument).encode()
    options = {"caller": "machine", "digest": digest((argument,), {}), **options}
    return Request(function=function.name, tool=function.tool, kind=function.kind, arguments=arguments, **options)
