"""Calls and timelines for people: records in, what rich prints out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from shlex import quote
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perdure.engine import CallView, Question, TimelineEntry

STYLES = {
    "running": "cyan",
    "waiting": "yellow",
    "stuck": "bold red",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
}
SHORT_ID = 8
TEXTS = {
    "email": "ann@example.com",
    "uri": "https://example.com",
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
}
"""For each format that a form's field may have."""


def calls_table(found: Sequence[tuple[str, CallView]], now: datetime, *, with_server: bool) -> RenderableType:
    """`found` are calls, each with its server's name."""
    columns = ["id", "tool", "key", "status", "age", "took", "says"]
    table = _table(*columns, *(["server"] if with_server else []))
    for server, view in found:
        cells = [
            Text(view.id[:SHORT_ID]),
            printable(view.tool),
            printable(view.key or ""),
            Text(view.status, STYLES[view.status]),
            Text(duration(now - view.created)),
            Text(duration(view.ended - view.created) if view.ended else ""),
            first_line(view.error or _said(view)),
        ]
        table.add_row(*cells, *([printable(server)] if with_server else []))
    return table


def call_page(view: CallView, timeline: Sequence[TimelineEntry], now: datetime) -> RenderableType:
    parts: list[RenderableType] = [_heading(view), _facts(view, now)]
    if view.questions:
        parts += [questions_page(view)]
    if timeline:
        parts += [timeline_table(timeline, view.created)]
    if result := result_text(view.result):
        parts += [printable(result)]
    return Group(*_spaced(parts))


def timeline_table(timeline: Sequence[TimelineEntry], start: datetime) -> RenderableType:
    """Times are counted from `start`."""
    table = _table("at", "what", "name", "attempts", "took", "error")
    for entry, name in zip(timeline, _told_apart(timeline), strict=True):
        table.add_row(
            Text(f"+{duration((entry.began or entry.at) - start)}"),
            Text(entry.kind),
            printable(name),
            Text(str(entry.attempts or "")),
            Text(duration(entry.ended - entry.began) if entry.began and entry.ended else ""),
            _trouble(entry, start),
        )
    return table


def _told_apart(timeline: Sequence[TimelineEntry]) -> list[str]:
    """The names of its lines; steps of one name are numbered."""
    steps = Counter(entry.name for entry in timeline if entry.kind.startswith("step"))
    seen: Counter[str] = Counter()
    names: list[str] = []
    for entry in timeline:
        if entry.kind.startswith("step") and steps[entry.name] > 1:
            seen[entry.name] += 1
            names.append(f"{entry.name} #{seen[entry.name]}")
        else:
            names.append(entry.name)
    return names


def result_text(result: Any) -> str:
    """What a tool answered as text; other results as they are."""
    if result is None:
        return ""
    if isinstance(result, dict) and "content" in (fields := cast("dict[str, Any]", result)):
        return "\n".join(block.get("text") or f"({block.get('type')})" for block in fields["content"])
    return str(cast("object", result))


def duration(delta: timedelta) -> str:
    """In the two largest units that matter; at least zero."""
    seconds = max(delta.total_seconds(), 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def printable(text: str) -> Text:
    """Keys and errors come from elsewhere: what would steer a terminal is not sent to it."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))


def first_line(text: str) -> Text:
    return printable(text.strip().partition("\n")[0])


# --- parts ----------------------------------------------------------------------------------------


def _heading(view: CallView) -> Text:
    return Text.assemble((view.tool, "bold"), "  ", (view.status, STYLES[view.status]))


def _facts(view: CallView, now: datetime) -> RenderableType:
    began = f"{view.created:%Y-%m-%d %H:%M:%S} UTC, {duration(now - view.created)} ago"
    facts = {
        "id": view.id,
        "key": view.key,
        "began": began,
        "took": duration(view.ended - view.created) if view.ended else None,
        "says": _said(view),
        "parent": view.parent,
        "accepts": ", ".join(signal.name for signal in view.signals),
        "error": view.error,
    }
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        if fact:
            table.add_row(Text(name, "dim"), printable(fact))
    return table


def _said(view: CallView) -> str:
    """By the call; where it says nothing, when it goes on by itself."""
    if view.text or view.wakes is None:
        return view.text
    return f"waiting until {view.wakes:%Y-%m-%d %H:%M:%S} UTC"


def questions_page(view: CallView) -> RenderableType:
    """What a call asks, and how to answer."""
    first = next(iter(view.questions), None)
    if first is None:
        return Text("The call asks nothing now.")
    parts: list[RenderableType] = [Text("Questions", "bold")]
    for question in view.questions:
        parts += [_question(question)]
    several = " --question NAME" if len(view.questions) > 1 else ""
    return Group(*parts, Text(f"Answer: perdure answer {view.id}{several} {_example(first)}", "dim"))


def _question(question: Question) -> RenderableType:
    head = Text.assemble((question.name, "yellow"), "  ", printable(question.message))
    if question.url is not None:
        return Padding(Group(head, printable(question.url)), (0, 2))
    table = Table.grid(padding=(0, 2))
    required = (question.schema or {}).get("required", ())
    for name, field in (question.schema or {}).get("properties", {}).items():
        kind = " | ".join(map(str, field["enum"])) if "enum" in field else str(field.get("type", ""))
        about = str(field.get("description", ""))
        table.add_row(printable(name), printable(kind), "" if name in required else "optional", printable(about))
    return Padding(Group(head, Padding(table, (0, 2))) if table.rows else head, (0, 2))


def _example(question: Question) -> str:
    match question.kind:
        case "form":
            return f"{form_example(question)} or --decline"
        case "url":
            return "or --decline"
        case "sampling":
            return "TEXT"


def form_example(question: Question) -> str:
    """An answer that fits, as a shell takes it."""
    fields: dict[str, Any] = (question.schema or {}).get("properties", {})
    return quote(json.dumps({name: _fitting(field) for name, field in fields.items()}, ensure_ascii=False))


def _fitting(field: dict[str, Any]) -> object:
    match field:
        case {"default": value} | {"const": value} | {"enum": [value, *_]}:
            return value
        case {"oneOf": [first, *_]} | {"anyOf": [first, *_]}:
            return _fitting(first)
        case {"type": "array", "items": items}:
            return [_fitting(items)]
        case {"type": "boolean"}:
            return True
        case {"type": "integer" | "number"}:
            return field.get("minimum", field.get("maximum", 1))
        case {"format": kind} if kind in TEXTS:
            return TEXTS[kind]
        case _:
            return "…".ljust(field.get("minLength", 0), "…")


def _trouble(entry: TimelineEntry, start: datetime) -> Text:
    trouble = first_line(entry.error or "")
    if entry.next_attempt is not None:
        trouble.append(f"{' — ' if trouble else ''}next attempt at +{duration(entry.next_attempt - start)}", "yellow")
    return trouble


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold" if column in ("error", "says", "key", "name") else "ellipsis")
    return table


def _spaced(parts: Iterable[RenderableType]) -> Iterable[RenderableType]:
    for n, part in enumerate(parts):
        if n:
            yield Text()
        yield part
