"""The other process of `replays`: it imports the server and feeds one journal to a fresh body."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.core.audit import watching
from perdure.core.body import Body
from perdure.core.codec import decode_event
from perdure.core.commands import Complete, ContinueAs, EndCancelled, Fail, Finish
from perdure.core.events import Started
from perdure.core.past import past_of
from perdure.engine import BodyFunction, CallFacts, Principal
from perdure.engines.embedded.engine import Embedded
from perdure.errors import Diverged
from perdure.server import DurableMCP


def main(folder: Path) -> None:
    question = json.loads((folder / "question.json").read_text())
    sys.path[:] = question["path"]
    server, *_ = [_imported(name, file) for name, file in question["modules"]]
    answer = asyncio.run(_replayed(getattr(server, question["server"]), question))
    (folder / "answer.json").write_text(json.dumps(answer))


def _imported(name: str, file: str) -> ModuleType:
    """By its name if that leads to the file; test modules and scripts are found by their file alone."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin == file:
        return import_module(name)
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _replayed(mcp: DurableMCP[Any], question: dict[str, Any]) -> dict[str, Any]:
    call_id, tool, caller, principal = question["facts"]
    facts = CallFacts(call_id, tool, caller, None if principal is None else _principal(*principal))
    function = next(each for each in mcp.functions if question["function"] in (each.name, *each.aliases))
    run = function.run
    assert isinstance(run, BodyFunction)
    events = [decode_event(event.encode()) for event in question["events"]]
    started = events[0]
    assert isinstance(started, Started)
    past = past_of(events)
    # The body may look at the server's state, which is there as long as it is served.
    with mcp.on(Embedded("memory:")), watching():
        async with mcp.serving(work=False):
            arguments = question["arguments"].encode()
            body = Body(
                lambda body: run.main(body, facts, arguments),
                call_id=call_id,
                markers=past.markers,
                python=started.python,
            )
            try:
                for position, event in enumerate(past.fed):
                    body.feed(event, following=position < len(past.fed) - 1)
                return _answer(body.finish)
            except Diverged as error:
                return {"diverged": [error.recorded, error.asked, error.python]}
            finally:
                body.drop()


def _principal(subject: str, issuer: str | None, client_id: str | None, scopes: list[str]) -> Principal:
    return Principal(subject, issuer, client_id, frozenset(scopes))


def _answer(finish: Finish | None) -> dict[str, Any]:
    match finish:
        case None:
            return {"end": None, "payload": None}
        case Complete(value):
            return {"end": "completed", "payload": value.decode()}
        case Fail(error):
            return {"end": "failed", "payload": error.decode()}
        case EndCancelled():
            return {"end": "cancelled", "payload": None}
        case ContinueAs(arguments):
            return {"end": "continued", "payload": arguments.decode()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
