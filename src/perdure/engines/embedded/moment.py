"""Seconds of the clock as a time for people and programs to read."""

from __future__ import annotations

from datetime import UTC, datetime

LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def moment(seconds: float) -> datetime:
    """In UTC. Timers may reach farther than datetimes go, as with `timedelta.max`: theirs is the last one there is."""
    return datetime.fromtimestamp(min(seconds, LATEST), UTC)
