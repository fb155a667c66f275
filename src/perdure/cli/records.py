"""Calls and timelines as JSON: the field names are a contract with programs, additions only."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from perdure.engine import CallView, TimelineEntry


def call_record(view: CallView, engine: str) -> dict[str, Any]:
    return {
        "id": view.id,
        "tool": view.tool,
        "kind": view.kind,
        "key": view.key,
        "status": view.status,
        "text": view.text,
        "data": view.data,
        "questions": [asdict(question) for question in view.questions],
        "signals": [{"name": each.name, "once": each.once, "schema": dict(each.schema)} for each in view.signals],
        "parent": view.parent,
        "result": view.result,
        "error": view.error,
        "created": _time(view.created),
        "ended": _time(view.ended),
        "engine": engine,
    }


def entry_record(entry: TimelineEntry) -> dict[str, Any]:
    return {
        "at": _time(entry.at),
        "kind": entry.kind,
        "name": entry.name,
        "attempts": entry.attempts,
        "began": _time(entry.began),
        "ended": _time(entry.ended),
        "error": entry.error,
        "next_attempt": _time(entry.next_attempt),
    }


def _time(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()
