"""`replays`: a call's journal, replayed by another process with another hash seed."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from perdure.core.codec import describe_error, encode_event, import_name
from perdure.core.events import Cancelled, Completed, Event, Failed
from perdure.engine import BodyFunction, CallFacts
from perdure.errors import Diverged, PerdureError
from perdure.server import DurableMCP

PATIENCE = 60.0
"""Real seconds for a process that imports the server and feeds one journal."""

LONGEST_SHOWN = 500


async def replays(mcp: DurableMCP[Any], call_id: str) -> None:
    """Replay a call's journal in a second process with another hash seed; its steps are not run there.

    Raises `Diverged`, or `AssertionError` when the result differs. That process imports the server, and enters its
    lifespan, so it must be at the top of a module or of a file.
    """
    engine = mcp.engine
    events = await engine.journal(call_id)
    facts = await engine.facts(call_id)
    function = (await engine.get(call_id)).function
    _check_has_body(mcp, function, facts)
    server, name = _place_of(mcp)
    modules = [server, *_module_of(function)]
    question = {
        "path": sys.path,
        "modules": [[import_name(module.__name__), module.__file__] for module in modules],
        "server": name,
        "function": function,
        "facts": [facts.call_id, facts.tool, facts.caller, _principal_of(facts)],
        "arguments": (await engine.arguments(call_id)).decode(),
        "events": [encode_event(event).decode() for event in events],
    }
    seed = _another_hash_seed()
    answer = await asyncio.to_thread(_ask_child, question, seed)
    _compare(call_id, events, answer, seed)


def _check_has_body(mcp: DurableMCP[Any], function: str, facts: CallFacts) -> None:
    found = next((each for each in mcp.functions if function in (each.name, *each.aliases)), None)
    if found is None:
        raise PerdureError(f"{mcp.name} has no function {function}, which call {facts.call_id} runs.")
    if not isinstance(found.run, BodyFunction):
        raise PerdureError(
            f"{facts.tool!r} takes no DurableContext: its calls are one step, and there is nothing to replay."
        )


# --- where the server is --------------------------------------------------------------------------


def _place_of(mcp: DurableMCP[Any]) -> tuple[ModuleType, str]:
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is mcp and getattr(module, "__file__", None):
                return module, name
    raise PerdureError(f"{mcp.name} is at the top of no module, so no other process could import it.")


def _module_of(function: str) -> Sequence[ModuleType]:
    """That of the function, which may have been registered by another module than the server's."""
    found = sys.modules.get(function.partition(":")[0])
    return [] if found is None or not getattr(found, "__file__", None) else [found]


def _principal_of(facts: CallFacts) -> list[Any] | None:
    who = facts.principal
    return None if who is None else [who.subject, who.issuer, who.client_id, sorted(who.scopes)]


# --- the other process ----------------------------------------------------------------------------


def _another_hash_seed() -> str:
    own = os.environ.get("PYTHONHASHSEED")
    while (seed := str(secrets.randbelow(2**32 - 1) + 1)) == own:
        pass
    return seed


def _ask_child(question: dict[str, Any], seed: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "question.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(question))
        try:
            child = subprocess.run(
                [sys.executable, "-m", "perdure.testing.replaying", folder],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise PerdureError(
                f"The replay was not done after {PATIENCE:g} s: does the server begin to serve?"
            ) from None
        if child.returncode != 0:
            raise PerdureError(f"The process that was to replay the call failed:\n{child.stderr[-4000:]}")
        return json.loads(answered.read_text())


# --- what came of it ------------------------------------------------------------------------------


def _compare(call_id: str, events: Sequence[Event], answer: dict[str, Any], seed: str) -> None:
    if (diverged := answer.get("diverged")) is not None:
        raise Diverged(*diverged)
    before, now = _end_of(events), (answer["end"], answer["payload"])
    if before != now:
        raise AssertionError(
            f"Call {call_id} does not replay as it ran (PYTHONHASHSEED={seed}):\n"
            f"  before: {_spell(*before)}\n  replay: {_spell(*now)}\n"
            "`perdure check` looks for the clock, chance and I/O in bodies."
        )


def _end_of(events: Sequence[Event]) -> tuple[str | None, str | None]:
    match events[-1]:
        case Completed(value):
            return "completed", value.decode()
        case Failed(error):
            return "failed", error.decode()
        case Cancelled():
            return "cancelled", None
        case _:
            return None, None


def _spell(end: str | None, payload: str | None) -> str:
    if end is None:
        return "it had not ended"
    if payload is None:
        return end
    text = describe_error(payload.encode()) if end == "failed" else payload
    return f"{end}: {text}"[:LONGEST_SHOWN]
