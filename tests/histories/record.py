"""Writes the journals of this version: `python -m tests.histories.record 0.1.0` makes one file per call of the corpus.

They are kept for ever: what a released version wrote must replay with the code of every later one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

from perdure.core.codec import encode_event
from perdure.engine import BodyFunction, Query
from perdure.engines.embedded.journal import FindCalls, ReadRecord, Record
from tests.crash.corpus import SCENARIOS, Scenario
from tests.crash.memory import World

LARGEST = 100_000
"""Bytes of a journal that is kept: what is large is tested elsewhere."""


def main(version: str) -> None:
    folder = Path(__file__).parent / version
    folder.mkdir(exist_ok=True)
    for scenario in SCENARIOS:
        if not isinstance(scenario.function.run, BodyFunction):
            continue
        for number, record in enumerate(asyncio.run(records(scenario))):
            text = json.dumps(spelled(record, scenario), indent=1) + "\n"
            if len(text) < LARGEST:
                (folder / f"{scenario.name}-{number}.json").write_text(text)


async def records(scenario: Scenario) -> list[Record]:
    """Of its call and all that came of it, where it was crashed once in the middle."""
    calm = World(scenario, [])
    await calm.live()
    # The corpus leaves memory only after a while: here each call is in it until it ends.
    world = World(replace(scenario, settings={}), [(len(calm.names) // 2, "after")])
    await world.live()
    world.check()
    views = world.ask(FindCalls(Query(limit=1000))).calls
    return [world.ask(ReadRecord(view.id)) for view in reversed(views)]


def spelled(record: Record, scenario: Scenario) -> dict[str, Any]:
    return {
        "scenario": scenario.name,
        "function": record.view.function,
        "call": record.view.id,
        "arguments": b64encode(record.arguments).decode(),
        "events": [b64encode(encode_event(event)).decode() for event in record.events],
    }


if __name__ == "__main__":
    main(sys.argv[1])
