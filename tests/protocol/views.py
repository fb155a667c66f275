"""Calls as they look, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from perdure.engine import CallView


def view(**changes: Any) -> CallView:
    known: dict[str, Any] = {
        "id": "c0",
        "tool": "slow",
        "function": "tests:slow",
        "kind": "tool",
        "key": None,
        "status": "running",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return CallView(**(known | changes))
