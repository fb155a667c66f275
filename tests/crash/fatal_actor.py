"""A process that dies of a step; once its call is stuck it says why: `python -m tests.crash.fatal_actor FILE`."""

from __future__ import annotations

import asyncio
import ctypes
import sys

from perdure.effects import Effects
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import body, request_for, step


def crash() -> None:
    ctypes.string_at(0)


async def fatal(effects: Effects, _: None) -> None:
    await step(effects, crash)


async def main(path: str) -> None:
    function = body(fatal)
    engine = Embedded(path)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, idempotency_key="the fatal one"))
        async for view in engine.watch(accepted.call_id):
            if view.status == "stuck":
                print(view.error)
                return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
