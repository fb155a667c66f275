"""`python -m bench [--only NAME] [--quick]`: measure, print the table, write RESULTS.md.

The exit status is 1 if a row was not measured; a row that missed its limit is shown as missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from bench import machine, table
from bench.disk import open_disk
from bench.promises import PROMISES, Effort, Measure, Measured
from bench.rounds import medians, ms

BENCHES: Mapping[str, tuple[str, ...]] = {
    "engine": (
        "engine-body",
        "engine-whole",
        "engine-ten",
        "load-body",
        "load-whole",
        "load-ten",
        "load-stall",
    ),
    "http": ("http-body", "http-whole", "http-read-only"),
    "memory_transport": ("memory-body", "memory-whole"),
    "startup": ("startup",),
    "stdio": ("stdio",),
    "takeover": ("takeover",),
    "recovery": ("recovery",),
    "idle": ("idle",),
    "journal_size": ("journal-size",),
    "parked": ("parked-memory", "parked-wake"),
    "tasks": ("tasks-one", "tasks-load"),
    "listens": ("listens-memory", "listens-news"),
    "waiting_tasks": ("waiting-memory", "waiting-answer"),
}
"""Each module's rows."""


def main() -> int:
    asked = _asked()
    described = machine.describe()
    benches = [name for name in BENCHES if not asked.only or _is_wanted(name, asked.only)]
    rows = [row for row in PROMISES if any(row in BENCHES[name] for name in benches)]
    # /var/tmp is on a disk where /tmp is in memory.
    beside = "/var/tmp" if os.path.isdir("/var/tmp") else None
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=beside) as folder:
        effort = Effort(Path(folder), asked.quick)
        described.append(("fdatasync of one page, median (d)", ms(asyncio.run(_disk(effort)))))
        described.append(("load average before", machine.load()))
        for what, is_ in described:
            print(f"{what}: {is_}")
        found = {measured.promise: measured for name in benches for measured in _run(name, effort)}
    described.append(("load average after", machine.load()))
    table.show(rows, found)
    if len(benches) == len(BENCHES) and not asked.quick:
        table.write(described, found)
    return 0 if all(row in found for row in rows) else 1


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=[*BENCHES, *PROMISES])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; RESULTS.md is not written")
    return parser.parse_args()


def _is_wanted(bench: str, only: Iterable[str]) -> bool:
    return any(name == bench or name in BENCHES[bench] for name in only)


def _run(name: str, effort: Effort) -> list[Measured]:
    """What one bench measured; what it could not is missed in the table."""
    print(f"… {name}", file=sys.stderr, flush=True)
    found: list[Measured] = []

    async def collect() -> None:
        measure: Measure = import_module(f"bench.{name}").measure
        async for measured in measure(effort):
            found.append(measured)

    gc.collect()
    try:
        asyncio.run(collect())
    except Exception:
        traceback.print_exc()
    return found


async def _disk(effort: Effort) -> float:
    with open_disk(effort.folder) as disk:
        return (await medians({"disk": disk.write}, rounds=1, each=300))["disk"]


if __name__ == "__main__":
    sys.exit(main())
