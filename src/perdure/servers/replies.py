"""What the replies of HTTP services have in common: which are worth another attempt, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from perdure import TryAgain


def overloaded(service: str, reply: httpx.Response) -> TryAgain | None:
    """What a step raises upon 429 and 5xx, which pass by themselves; None for all other replies."""
    if reply.status_code != 429 and reply.status_code < 500:
        return None
    after = retry_after(reply.headers.get("Retry-After"), datetime.now(UTC))
    return TryAgain(f"{service} answered {reply.status_code}.", after=after)


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """RFC 9110, 10.2.3: seconds or a date; None where it says nothing that can be understood."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            return timedelta(seconds=min(int(header), 86_400))
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(date - now, timedelta(0)), timedelta(days=1))
