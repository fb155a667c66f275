"""Calls of a client in the server's own process: what durability adds, with neither sockets nor pipes between."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mcp import Client

from bench import durable_server, plain_server
from bench.disk import open_disk
from bench.http import ERA, calling
from bench.promises import Effort, Measured
from bench.rounds import medians, ms

MORE = 0.5e-3


async def measure(effort: Effort) -> AsyncIterator[Measured]:
    server = durable_server.make(effort.folder / "memory_transport.db")
    with open_disk(effort.folder) as disk:
        async with Client(plain_server.make(), mode=ERA) as plain, Client(server, mode=ERA) as durable:
            took = await medians(
                {
                    "disk": disk.write,
                    "plain": calling(plain, "add"),
                    "body": calling(durable, "add_in_a_body"),
                    "whole": calling(durable, "add"),
                },
                rounds=effort.of(100, 20),
                each=5,
            )
    free = took["plain"] + 2 * took["disk"]
    for name in ("body", "whole"):
        figure = f"{ms(took[name])} = plain {ms(took['plain'])} + 2 d + {ms(took[name] - free)}"
        yield Measured(f"memory-{name}", figure, took[name] <= free + MORE)
