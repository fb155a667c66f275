"""What a server computes while nobody asks: a durable one over HTTP that was asked once, beside a plain one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

from mcp import Client

from bench.child import running
from bench.http import ERA, calling, url_of
from bench.promises import Effort, Measured

LIMIT = 1e-3
"""Of a core: in ten seconds one tick of the clock by which the system counts."""

SETTLED_AFTER = 12.0
"""Seconds: bodies that wait leave memory after ten."""


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    file = effort.folder / "idle.db"
    async with (
        running("bench.plain_server", "http") as plain,
        running("bench.durable_server", "http", file) as durable,
    ):
        for server, tool in ((plain, "add"), (durable, "add_in_a_body")):
            async with Client(await url_of(server), mode=ERA) as client:
                await calling(client, tool)()
        await asyncio.sleep(effort.of(int(SETTLED_AFTER), 1))
        began, before = perf_counter(), (plain.computed(), durable.computed())
        await asyncio.sleep(effort.of(10, 3))
        took = perf_counter() - began
        shares = [(server.computed() - was) / took for server, was in zip((plain, durable), before, strict=True)]
    figure = f"{shares[1]:.2%} of a core; a plain one {shares[0]:.2%}"
    yield Measured("idle", figure, shares[1] <= LIMIT)
