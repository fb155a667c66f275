"""A process whose calls run and do not end: `python -m bench.holder FILE START EXPECTED`.

It says `open`, starts so many calls, and says `all TIME` when the last step of so many runs, whoever started them.
"""

from __future__ import annotations

import asyncio
import sys
import time

from bench.child import say
from bench.functions import add_one, body, request_for, step
from perdure.effects import Effects
from perdure.engines.embedded.engine import Embedded

AT_ONCE = 100


async def main(file: str, start: int, expected: int) -> None:
    running = 0

    async def hold(number: int) -> int:
        nonlocal running
        running += 1
        if running == expected:
            say(f"all {time.monotonic()}")
        return await asyncio.Future()

    async def held(effects: Effects, number: int) -> int:
        number = await step(effects, add_one, number)
        return await step(effects, hold, number)

    function = body(held)
    engine = Embedded(file, concurrent_steps=2 * expected)
    async with engine.serve((function,)):
        say("open")
        wishes = iter(range(start))

        async def client() -> None:
            for _ in wishes:
                await engine.start(request_for(function))

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
