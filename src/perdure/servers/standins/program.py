"""A stand-in as a program: it prints its address as its first line, and runs until it is ended."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from perdure.servers.standins.faults import Fault, by_chance, parse_faults
from perdure.servers.standins.standin import Standin

Faults = Iterable[tuple[str, Iterable[Fault | None]]]


def run_standin(description: str, make: Callable[[Faults], Standin], *, port: int = 0) -> None:
    """`make` is given what its requests meet, by the prefixes of their paths; `port` is where it listens unasked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=port, help="0: one that is free (default: %(default)s)")
    parser.add_argument(
        "--fault",
        type=parse_faults,
        action="append",
        default=[],
        metavar="PREFIX=FAULT,…",
        help="what the requests under a prefix meet, one after the other",
    )
    parser.add_argument("--seed", type=int, help="let two in five of all other requests fail, by chance")
    options = parser.parse_args()
    faults: list[tuple[str, Iterable[Fault | None]]] = options.fault
    if options.seed is not None:
        faults.append(("/", by_chance(options.seed)))
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(make(faults), options.port))


async def _run(standin: Standin, port: int) -> None:
    async with standin.listening(port):
        print(standin.url, flush=True)
        await asyncio.Event().wait()
