"""See calls and steer them: each command is one sentence over `Calls`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from perdure.calls import Calls
from perdure.cli.files import Held, find_call, opened, read_each
from perdure.cli.output import print_json, terminal
from perdure.cli.problem import Problem
from perdure.cli.records import call_record, entry_record
from perdure.cli.render import call_page, calls_table, form_example, questions_page
from perdure.core.call import Status
from perdure.engine import Page, Question


async def list_calls(
    files: list[str], tool: str | None, status: Status | None, limit: int, after: str | None, *, as_json: bool
) -> None:
    if after is not None and len(files) > 1:
        raise Problem("--after goes on in one file: name it with --server or --engine.")

    async def page(calls: Calls) -> Page:
        return await calls.find(tool=tool, status=status, after=after, limit=limit)

    pages = await read_each(files, page)
    found = [Held(file, view) for file, page in pages for view in page.calls]
    newest = sorted(found, key=lambda held: held.view.created, reverse=True)[:limit]
    following = pages[0][1].next if len(files) == 1 else None

    if as_json:
        print_json({"calls": [call_record(held.view, held.file) for held in newest], "next": following})
        return
    out = terminal()
    if not newest:
        out.print("No calls.")
        return
    named = [(Path(held.file).stem, held.view) for held in newest]
    out.print(calls_table(named, datetime.now(UTC), with_server=len(files) > 1))
    if following is not None:
        out.print(f"There are more: --after {following}")


async def show_call(files: list[str], id: str, *, as_json: bool) -> None:
    held = await find_call(files, id)
    async with opened(held.file) as calls:
        timeline = await calls.timeline(held.view.id)
    if as_json:
        print_json(call_record(held.view, held.file) | {"timeline": [entry_record(entry) for entry in timeline]})
    else:
        terminal().print(call_page(held.view, timeline, datetime.now(UTC)))


async def cancel_call(files: list[str], id: str, reason: str) -> None:
    held = await find_call(files, id)
    async with opened(held.file) as calls:
        await calls.cancel(held.view.id, reason=reason)
    terminal().print(f"Call {held.view.id} was asked to cancel.")


async def signal_call(files: list[str], id: str, name: str, value: Any) -> None:
    held = await find_call(files, id)
    async with opened(held.file) as calls:
        await calls.signal(held.view.id, name, value)
    terminal().print(f"Call {held.view.id} has the signal {name}.")


async def answer_call(
    files: list[str], id: str, value: str | None, name: str | None, *, decline: bool, dismiss: bool
) -> None:
    held = await find_call(files, id)
    asked = [question for question in held.view.questions if name in (None, question.name)]
    if value is None and not decline and not dismiss and not (len(asked) == 1 and asked[0].kind == "url"):
        terminal().print(questions_page(held.view))
        return
    from mcp.server.elicitation import CancelledElicitation, DeclinedElicitation

    said: Any = DeclinedElicitation() if decline else CancelledElicitation() if dismiss else _read(value, asked)
    async with opened(held.file) as calls:
        await calls.answer(held.view.id, said, question=name)
    terminal().print(f"Call {held.view.id} has the answer.")


def _read(value: str | None, asked: Sequence[Question]) -> Any:
    """A text for a model's place may come as it is; everything else is JSON, of a form an object."""
    kind = asked[0].kind if len(asked) == 1 else None
    try:
        said = None if value is None else json.loads(value)
    except ValueError as error:
        if kind == "sampling":
            return value
        example = f" An answer that fits: {form_example(asked[0])}" if kind == "form" else ""
        raise Problem(f"{value} is not JSON ({error}).{example}") from None
    if kind == "form" and not isinstance(cast("object", said), dict):
        raise Problem(f"{value} has no fields. An answer that fits: {form_example(asked[0])}")
    return said


async def retry_call(files: list[str], id: str) -> None:
    held = await find_call(files, id)
    async with opened(held.file) as calls:
        again = await calls.retry(held.view.id)
    if again.id == held.view.id:
        terminal().print(f"Call {again.id} is replayed.")
    else:
        terminal().print(f"Call {again.id} was started in its place.")


async def release_call(files: list[str], id: str) -> None:
    held = await find_call(files, id)
    async with opened(held.file) as calls:
        await calls.release(held.view.id)
    terminal().print(f"Call {held.view.id} is free for another process.")
