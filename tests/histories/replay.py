"""Replays every journal that is kept, in whatever process this is: `python -m tests.histories.replay`.

It prints a line for each that does not end as it did; none, and status 0, is well.
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perdure.core.body import Body
from perdure.core.codec import decode_event
from perdure.core.commands import Complete, EndCancelled, Fail, Finish
from perdure.core.events import Cancelled, Completed, Event, Failed, Started
from perdure.core.past import past_of
from perdure.engine import BodyFunction, CallFacts, Function
from perdure.errors import Diverged, PerdureError
from tests.crash.corpus import BY_NAME
from tests.crash.outside import outside

FOLDER = Path(__file__).parent


def histories() -> list[Path]:
    return sorted(FOLDER.glob("*/*.json"))


def main() -> int:
    wrong = [line for path in histories() for line in replayed(path)]
    print(*wrong, sep="\n")
    return len(wrong) > 0


def replayed(path: Path) -> Iterator[str]:
    """What is wrong with it."""
    kept: dict[str, Any] = json.loads(path.read_text())
    outside.note("mended")
    outside.unit = 1.0
    functions = BY_NAME[kept["scenario"]].functions
    function = next(function for function in functions if function.name == kept["function"])
    *past, end = [decode_event(b64decode(event)) for event in kept["events"]]
    try:
        finish = finish_of(function, kept["call"], b64decode(kept["arguments"]), past)
    except Diverged as error:
        yield f"{path.name}: {error}"
    else:
        if not ends_alike(finish, end):
            yield f"{path.name}: it ended with {end}, and now with {finish}"


def finish_of(function: Function, call_id: str, arguments: bytes, events: list[Event]) -> Finish | None:
    run = function.run
    assert isinstance(run, BodyFunction)
    facts = CallFacts(call_id, function.tool, "machine", None)
    past = past_of(events)
    started = past.fed[0]
    assert isinstance(started, Started)
    body = Body(
        lambda body: run.main(body, facts, arguments),
        call_id=facts.call_id,
        markers=past.markers,
        python=started.python,
    )
    try:
        for position, event in enumerate(past.fed):
            body.feed(event, following=position < len(past.fed) - 1)
        return body.finish
    finally:
        body.drop()


def ends_alike(finish: Finish | None, end: Event) -> bool:
    match finish, end:
        case Complete(value), Completed(recorded):
            return value == recorded
        case Fail(error), Failed(recorded):
            return error == recorded
        case EndCancelled(), Cancelled():
            return True
        case _:
            return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerdureError as error:
        sys.exit(str(error))
