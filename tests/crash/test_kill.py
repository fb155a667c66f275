"""On a file: a process with the whole corpus, killed at every crash point and started again until all is over.

`PERDURE_KILLS=all` kills at every place of every point, which takes hours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.core.call import idempotency_key
from perdure.core.codec import decode_event
from perdure.core.events import StepRaised, StepReturned
from perdure.engine import CallView, ListEntries, Query
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.ledger import crash_points
from tests.crash.corpus import SCENARIOS
from tests.crash.outside import InFile, check_order

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Death:
    point: str
    side: str = "before"
    nth: int = 1
    leave: int = 0


NOWHERE = Death("nowhere")

RECOVERING = ("TakeOver", "Claim", "ForgetCrashes")

LEAVING = ("Yield", "Leave")


def both(point: str, nth: int = 1, leave: int = 0) -> tuple[Death, Death]:
    return Death(point, "before", nth, leave), Death(point, "after", nth, leave)


# Each is the story of one file. What happens once in the corpus is killed first, while it is still to come.
STORIES: tuple[tuple[Death, ...], ...] = (
    (*both("StartCall", 20), *both("AppendJoin"), *both("TakeOver"), *both("Append", 25)),
    (*both("MarkStuck"), *both("Claim"), *both("Register"), *both("AppendStore", 3)),
    (*both("AppendChild", 2), *both("RetryCall"), *both("Offer"), *both("Append", 60)),
    (*both("ReleaseCall"), *both("ForgetCrashes"), *both("NoteAttempt", 2), *both("RemoveExpired")),
    (*both("LetGo"), *both("Yield", 2, leave=15), *both("Deliver", 3)),
    (*both("UseStoreOnce"), *both("Leave", 1, leave=30), *both("Append", 4)),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_killed_at_every_crash_point_leaves_nothing_undone_and_does_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere = [(point, side) for point in sorted(crash_points()) for side in ("before", "after")]
    stories = [*(every_place() if os.environ.get("PERDURE_KILLS") == "all" else STORIES)]
    deaths = tell(stories, tmp_path / "first")
    # What happens once may have been over before its turn came: it gets a file of its own.
    deaths += tell([alone(*place) for place in everywhere if place not in deaths], tmp_path / "second")
    with capsys.disabled():
        lines = (f"{p}: {deaths[p, 'before']} before, {deaths[p, 'after']} after" for p in sorted(crash_points()))
        print("", "killed at", *lines, sep="\n  ")
    assert [place for place in everywhere if place not in deaths] == []


def alone(point: str, side: str) -> tuple[Death, ...]:
    death = Death(point, side, leave=15 if point in LEAVING else 0)
    return (Death("Append", "after", 30), death) if point in RECOVERING else (death,)


def tell(stories: Sequence[tuple[Death, ...]], folder: Path) -> Counter[tuple[str, str]]:
    """Each on a file of its own; the deaths that came about."""
    folder.mkdir()
    folders = [folder / str(number) for number in range(len(stories))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        killed = [*threads.map(live_and_die, folders, stories)]
    return Counter((death.point, death.side) for story in killed for death in story)


def every_place() -> Iterator[tuple[Death, ...]]:
    for point in sorted(crash_points()):
        leave = 15 if point in LEAVING else 0
        for nth in range(1, 200):
            for side in ("before", "after"):
                yield Death("Append", "after", 40), Death(point, side, nth, leave)
                yield (Death(point, side, nth, leave),)


def live_and_die(folder: Path, story: tuple[Death, ...]) -> list[Death]:
    """The deaths that came about."""
    folder.mkdir()
    killed: list[Death] = []
    for death in (*story, NOWHERE):
        process = live(folder, death)
        if process.returncode == -signal.SIGKILL:
            killed.append(death)
        else:
            assert process.returncode == 0, process.stderr
        note_what_is_settled(folder)
    check_the_end(folder, len(story))
    return killed


def live(folder: Path, death: Death) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.crash.actor", str(folder)]
    command += [death.point, death.side, str(death.nth), str(death.leave)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def note_what_is_settled(folder: Path) -> None:
    """Nobody has the file open now. What is recorded by now must not run in the lives to come."""
    memory = InFile(folder / "effects")
    connection = sqlite3.connect(folder / "calls.sqlite")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return
        for call_id, body in connection.execute("SELECT id, body FROM events JOIN calls ON n = call"):
            event = decode_event(body)
            if isinstance(event, StepReturned | StepRaised):
                memory.add(f"settled {call_id} {idempotency_key(call_id, event.key)} {event.key}")
    finally:
        connection.close()
        memory.close()


def check_the_end(folder: Path, deaths: int) -> None:
    memory = InFile(folder / "effects")
    lines = memory.lines()
    memory.close()
    check_order(lines)
    views, stored = asyncio.run(read(folder / "calls.sqlite"))
    by_name = {view.tool: view for view in views if view.parent is None}
    for scenario in SCENARIOS:
        view = by_name[scenario.name]
        children = [other for other in views if other.parent == view.id]
        scenario.check(view, children, deaths, lines)
        assert stored[scenario.name] == scenario.stored


async def read(path: Path) -> tuple[list[CallView], dict[str, dict[str, str]]]:
    """All calls, and what is in each scope of the store."""
    engine = Embedded(path)
    stored: dict[str, dict[str, str]] = {}
    async with engine.serve([], work=False):
        views = (await engine.find(Query(limit=1000))).calls
        for scenario in SCENARIOS:
            entries = (await engine.store("things", ListEntries(scenario.name))).entries
            stored[scenario.name] = {key: value.decode() for key, value in entries}
    return views, stored
