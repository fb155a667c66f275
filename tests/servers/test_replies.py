from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from perdure.servers.replies import overloaded, retry_after

NOON = datetime(2026, 7, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "after"),
    [
        (None, None),
        ("120", timedelta(minutes=2)),
        ("0", timedelta(0)),
        ("Tue, 28 Jul 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Tue, 28 Jul 2026 11:00:00 GMT", timedelta(0)),
        ("Thu, 28 Jul 2044 12:00:00 GMT", timedelta(days=1)),
        ("99999999999999", timedelta(days=1)),
        ("9" * 5000, None),
        ("soon", None),
        ("Tue, 28 Jul 2026 0799999299999:00 GMT", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_a_day(header: str | None, after: timedelta | None) -> None:
    assert retry_after(header, NOON) == after


@pytest.mark.parametrize(("status", "passes"), [(200, False), (404, False), (429, True), (500, True), (503, True)])
def test_what_passes_by_itself_is_worth_another_attempt(status: int, passes: bool) -> None:
    assert (overloaded("It", httpx.Response(status)) is not None) == passes
