"""What is promised of speed and size: the rows of the table. One-step calls are bodies and whole steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Promise:
    what: str
    limit: str


PROMISES: Mapping[str, Promise] = {
    "http-body": Promise(
        "body with one step, streamable HTTP, 2026-07-28, `synchronous=FULL`, median", "≤ 1.5 × plain"
    ),
    "http-whole": Promise("whole step, the same", "≤ 1.5 × plain"),
    "http-read-only": Promise("unrecorded read-only tool, the same", "≤ 1.05 × plain"),
    "memory-body": Promise("body with one step, in memory, median", "≤ plain + 2 d + 0.5 ms"),
    "memory-whole": Promise("whole step, the same", "≤ plain + 2 d + 0.5 ms"),
    "engine-body": Promise("engine alone, body with one step, one at a time, median", "≤ 2 d + 0.4 ms"),
    "engine-whole": Promise("engine alone, whole step, one at a time, median", "≤ 2 d + 0.4 ms"),
    "engine-ten": Promise("engine alone, body with ten steps, one at a time, median", "≤ 11 d + 1 ms"),
    "load-body": Promise("engine alone, bodies with one step, 32 concurrent", "≥ 8,000 calls/s"),
    "load-whole": Promise("engine alone, whole steps, 32 concurrent", "≥ 8,000 calls/s"),
    "load-ten": Promise("engine alone, bodies with ten steps, 32 concurrent", "≥ 16,000 steps/s"),
    "load-stall": Promise("longest stall of the event loop under that load", "≤ 15 ms"),
    "takeover": Promise("take-over of a killed sibling's calls", "≤ 50 ms"),
    "recovery": Promise("10,000 calls in flight, process killed and started: all running again", "≤ 5 s"),
    "parked-memory": Promise("1,000,000 calls parked on timers and signals: resident", "≤ 300 MB"),
    "parked-wake": Promise("1,000,000 calls parked on timers and signals: waking any one", "≤ 20 ms"),
    "tasks-one": Promise(
        "task created, looked at until it is completed, streamable HTTP, `synchronous=FULL`, median", "< fastmcp-tasks"
    ),
    "tasks-load": Promise("the same, 32 concurrent", "> fastmcp-tasks"),
    "waiting-memory": Promise("100,000 tasks waiting for input: resident", "≤ 2,048 bytes each"),
    "waiting-answer": Promise(
        "100,000 tasks waiting for input: one looked at, answered, until it shows completed, median", "≤ 20 ms"
    ),
    "listens-memory": Promise("10,000 `subscriptions/listen` streams, each of a task: resident", "≤ 1.5 × plain"),
    "listens-news": Promise("a task's answer until its listener among those hears of its end, median", "≤ 20 ms"),
    "startup": Promise("`import perdure` beyond `import mcp.server.mcpserver`", "≤ 60 ms"),
    "stdio": Promise("first answer of a stdio server", "≤ 1.15 × plain"),
    "idle": Promise("an idle server: CPU", "none measurable: ≤ 0.1 % of a core"),
    "journal-size": Promise("bytes per recorded step beyond its payload", "≤ 400"),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured for a promise, in words, and whether it is kept."""

    promise: str
    figure: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured, and where; `quick` is for a look, and says nothing in earnest."""

    folder: Path
    quick: bool

    def of(self, earnest: int, quick: int) -> int:
        return quick if self.quick else earnest


Measure = Callable[[Effort], AsyncIterator[Measured]]
