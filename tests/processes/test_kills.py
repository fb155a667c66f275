"""A server under load is killed at random moments, again and again: nothing that it acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.processes.company import Company, never_two_at_once
from tests.processes.world import Effect

KILLS = int(os.environ.get("PERDURE_KILLS", "20"))
"""How many in all; PERDURE_KILLS asks for more."""

WIDTH = 12
"""Calls that a process has under way at once."""

Ends = Mapping[str, Mapping[str, Any]]


@dataclass
class Acknowledged:
    """What the processes said before they died."""

    kinds: dict[str, str] = field(default_factory=dict[str, str])
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    sent: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def hear(self, said: list[dict[str, Any]]) -> None:
        for line in said:
            match line["said"]:
                case "accepted":
                    self.kinds[line["call"]] = line["kind"]
                case "sent":
                    self.sent.setdefault(line["call"], []).append(line["item"])
                case "over":
                    self.ends[line["call"]] = (line["status"], line["result"])
                case _:
                    pass


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kills"), [(1, KILLS - KILLS // 3), (3, KILLS // 3)], ids=["alone", "among others"])
async def test_what_a_killed_server_acknowledged_is_kept_and_reaches_its_end(
    company: Company, count: int, kills: int
) -> None:
    random = Random(f"{count} {kills}")
    acknowledged = Acknowledged()
    killed: set[int] = set()
    actors = await company.several(count, quiet=True)
    for seed, actor in enumerate(actors):
        await actor.ask("load", seed=seed, width=WIDTH)
    for n in range(kills):
        await asyncio.sleep(random.uniform(0.02, 0.5))  # the moment of the kill is what is varied
        victim = actors.pop(random.randrange(count))
        acknowledged.hear(await victim.kill())
        killed.add(victim.pid)
        actors.append(await company.start(quiet=True))
        await actors[-1].ask("load", seed=1000 + n, width=WIDTH)
    for actor in actors:
        await actor.ask("stop_load")

    ends = {end["call"]: end for end in await actors[0].ask("settle")}
    for actor in actors:
        await actor.leave()
        acknowledged.hear(actor.said)
    how = Counter(f"{end['tool']} {end['status']}" for end in ends.values())
    print(f"\n{count} at once, {kills} killed: {len(acknowledged.kinds)} calls accepted; {dict(sorted(how.items()))}")
    nothing_is_lost(acknowledged, ends)
    all_ended_as_they_should(ends, company.effects)
    never_two_at_once(company.effects, killed)
    the_file_is_tidy(company.database)


def nothing_is_lost(acknowledged: Acknowledged, ends: Ends) -> None:
    assert acknowledged.kinds.keys() <= ends.keys()
    for call, end in acknowledged.ends.items():
        assert (ends[call]["status"], ends[call]["result"]) == end
    for call, items in acknowledged.sent.items():
        got: list[str] = ends[call]["result"]
        assert len(got) == len(set(got)), "a signal was applied twice"
        assert [item for item in got if item in items] == items


def all_ended_as_they_should(ends: Ends, effects: list[Effect]) -> None:
    last: dict[str, Effect] = {}
    times: Counter[str] = Counter()
    for effect in effects:
        if effect.what == "began":
            last[effect.key] = effect
            times[effect.key] += 1
    at_most_once = {effect.key for effect in effects if effect.name in ("at most once", "whole_one")}
    assert {key for key in at_most_once if times[key] > 1} == set()
    for end in ends.values():
        assert end["status"] == ("cancelled" if end["tool"] == "patient" else "completed") or (
            end["tool"] in ("sure", "whole_one") and end["error"].startswith("OutcomeUnknown")
        ), end
        for key, token in end["recorded"].items():
            assert last[key].token == token, "a step ran again after it was recorded"
        if end["tool"].startswith("whole") and end["status"] == "completed":
            assert end["result"] in {effect.token for effect in last.values() if effect.call == end["call"]}


def the_file_is_tidy(database: Path) -> None:
    with closing(sqlite3.connect(database)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        left_over = {
            table: file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("processes", "offers", "tries", "waits", "links")
        }
        assert left_over == dict.fromkeys(left_over, 0)
        assert file.execute("SELECT id, tool, status FROM calls WHERE ended IS NULL").fetchall() == []
        assert file.execute("SELECT id, tool, waiting FROM calls WHERE waiting <> 0").fetchall() == []
    assert not Path(f"{database}.owners").exists()
