"""Journals as text: what one process recorded is replayed in another.

`python -m tests.core.recorded replay FILE` replays the journals in FILE and exits with 1 if one diverges;
`python -m tests.core.recorded write` writes those that are kept in `journals/` anew.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from perdure.core.body import Body
from perdure.core.codec import decode_event, encode_event
from perdure.core.commands import Complete, ContinueAs, EndCancelled, Fail, Finish
from perdure.core.events import Event, Fed, Marked, Started
from tests.core.bodies import ALL, Main
from tests.core.simulation import CALL, Plan, World, run, spell_all

KEPT = Path(__file__).parent / "journals"
SIGNALS = ("yes", "no", "yes")

MAINS = {main.__name__: main for main in ALL}


@dataclass(frozen=True)
class Recorded:
    """One journal, and what came of it."""

    main: str
    journal: list[str]
    asked: list[Any]
    finish: str

    @classmethod
    def of(cls, main: Main, plan: Plan) -> Recorded:
        world = World()
        finish = run(world, main, plan)
        journal = [base64.b64encode(encode_event(event)).decode() for event in world.journal]
        return cls(main.__name__, journal, json.loads(json.dumps(world.asked)), spell_finish(finish))

    def replay(self) -> str | None:
        """What differs, if anything does. Another Python may ask for the same things of one moment in another order."""
        order = list[Any] if python_of(self) == python_here() else sorted
        journal: list[Event] = [decode_event(base64.b64decode(line)) for line in self.journal]
        markers = [(event.key, event.change) for event in journal if isinstance(event, Marked)]
        fed: list[Fed] = [event for event in journal if not isinstance(event, Marked)]  # pyright: ignore[reportAssignmentType]
        body = Body(MAINS[self.main], call_id=CALL, markers=markers)
        try:
            for position, event in enumerate(fed):
                asked = spell_all(body.feed(event, following=position < len(fed) - 1, again=True))
                if order(json.loads(json.dumps(asked))) != order(self.asked[position]):
                    return f"{self.main}: upon {event} {self.asked[position]} was asked, and now {asked}"
            if body.finish is None or spell_finish(body.finish) != self.finish:
                return f"{self.main}: it ended with {self.finish}, and now with {body.finish}"
        except Exception as error:
            return f"{self.main}: {error}"
        finally:
            body.drop()
        return None


def spell_finish(finish: Finish) -> str:
    match finish:
        case Complete(value):
            return f"completed {value.decode()}"
        case Fail(error):
            return f"failed {error.decode()}"
        case EndCancelled():
            return "cancelled"
        case ContinueAs(arguments):
            return f"continued with {arguments.decode()}"


def record(seeds: Iterable[int], mains: Iterable[Main] = ALL, cancel_at: int | None = None) -> Iterator[Recorded]:
    """Each body undisturbed and cancelled at some place."""
    for main in mains:
        for seed in seeds:
            yield Recorded.of(main, Plan(Random(seed), SIGNALS, python=python_here()))
            yield Recorded.of(main, Plan(Random(seed), SIGNALS, cancel=0.2, cancel_at=cancel_at, python=python_here()))


def write(path: Path, recorded: Iterable[Recorded]) -> None:
    path.write_text("".join(json.dumps(vars(each)) + "\n" for each in recorded))


def read(path: Path) -> list[Recorded]:
    return [Recorded(**json.loads(line)) for line in path.read_text().splitlines()]


def differences(path: Path) -> list[str]:
    return [difference for each in read(path) if (difference := each.replay()) is not None]


def python_here() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def python_of(recorded: Recorded) -> str:
    started = decode_event(base64.b64decode(recorded.journal[0]))
    assert isinstance(started, Started)
    return started.python


def main() -> None:
    match sys.argv[1:]:
        case ["replay", path]:
            found = differences(Path(path))
            print(*found, sep="\n")
            sys.exit(1 if found else 0)
        case ["write"]:
            KEPT.mkdir(exist_ok=True)
            for body in ALL:
                # Early, because 3.13 changed what a TaskGroup does when it is cancelled while it fails.
                write(KEPT / f"{body.__name__}.jsonl", record([1, 2, 3], [body], cancel_at=3))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
