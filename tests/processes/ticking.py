"""A server with a job that runs by itself, for several processes: `perdure worker tests.processes.ticking`."""

from __future__ import annotations

import os
from datetime import timedelta

from perdure import DurableContext, DurableMCP, current_step, step

mcp = DurableMCP("ticking")


@step
def note() -> None:
    with open(os.environ["TICKS"], "a") as ticks:
        ticks.write(f"{current_step().call_id} {os.getpid()}\n")


@mcp.job(every=timedelta(seconds=1))
async def tick(ctx: DurableContext) -> None:
    await note()
