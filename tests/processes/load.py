"""Calls of all kinds, many at once; what was acknowledged is said before anything else is done."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Mapping
from random import Random

from perdure.engine import Cancel, Function, Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import request_for

KINDS = ["one", "ten", "sure", "naps", "collects", "patient", "family", "whole_one", "whole_again"]


class Load:
    def __init__(
        self, engine: Embedded, functions: Mapping[str, Function], seed: int, say: Callable[..., None]
    ) -> None:
        self._engine = engine
        self._functions = functions
        self._random = Random(seed)
        self._say = say
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, width: int) -> None:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(width)]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _go_on(self) -> None:
        while True:
            await self._one_call(self._random.choice(KINDS))

    async def _one_call(self, kind: str) -> None:
        number = next(self._numbers)
        waiting = f"{os.getpid()} {number}"
        signals = (SignalSpec("item", False, {}),) if kind == "collects" else ()
        seconds = self._random.choice([0, 0, 0.01, 0.03])
        # Each has a caller of its own: nobody is given what another left behind.
        request = request_for(self._functions[kind], seconds, caller=waiting, waiting=waiting, signals=signals)
        call = (await self._engine.start(request)).call_id
        self._say("accepted", call=call, kind=kind)
        if kind == "collects":
            await self._send(call, number)
        if kind == "patient":
            await self._engine.deliver(call, Cancel("enough"))
        async for view in self._engine.watch(call):
            if view.is_over:
                self._say("over", call=call, status=view.status, result=view.result)
        self._engine.let_go(waiting, handed=self._random.random() < 0.5)

    async def _send(self, call: str, number: int) -> None:
        for n in range(self._random.randrange(4)):
            item = f"{os.getpid()} {number} {n}"
            await self._engine.deliver(call, Signal("item", json.dumps(item).encode()))
            self._say("sent", call=call, item=item)
            await asyncio.sleep(self._random.choice([0, 0.01]))
        await self._engine.deliver(call, Signal("item", b'"stop"'))
