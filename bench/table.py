"""The table of what is promised and what was measured, for the terminal and for RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.promises import PROMISES, Measured

RESULTS = Path(__file__).with_name("RESULTS.md")


def verdict(measured: Measured | None) -> str:
    if measured is None:
        return "NOT MEASURED"
    return "ok" if measured.kept else "MISSED"


def show(names: Iterable[str], found: Mapping[str, Measured]) -> None:
    table = Table("what", "limit", "measured", "", box=None, pad_edge=False)
    for name in names:
        promise, measured = PROMISES[name], found.get(name)
        said = verdict(measured)
        style = None if said == "ok" else "bold red"
        table.add_row(promise.what, promise.limit, measured.figure if measured else "—", said, style=style)
    Console().print(table)


def write(machine: Sequence[tuple[str, str]], found: Mapping[str, Measured]) -> None:
    lines = [
        "# Speed and size",
        "",
        "Written by `make bench`. d is the median of an fdatasync of one page in the same run. The floor is what as",
        "many commits cost through a queue, a thread and SQLite alone: no codec, no bodies, no epochs, no retries.",
        "",
    ]
    lines += [f"- {what}: {is_}" for what, is_ in machine]
    lines += ["", "| what | limit | measured | |", "| --- | --- | --- | --- |"]
    for name, promise in PROMISES.items():
        measured = found.get(name)
        said = verdict(measured)
        figure = measured.figure if measured else "—"
        lines.append(f"| {promise.what} | {promise.limit} | {figure} | {said if said == 'ok' else f'**{said}**'} |")
    RESULTS.write_text("\n".join(lines) + "\n", "utf-8")
