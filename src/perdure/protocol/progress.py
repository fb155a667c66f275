"""Progress as the protocol wants it: numbers that always increase, whatever the call says."""

from __future__ import annotations

from math import inf, nextafter

from perdure.engine import CallView, Progress
from perdure.protocol.conversation import Conversation

FIRST_AFTER = 1.0
"""Seconds. The first message commits the stream: before that, a killed server tears down the whole Python client."""

EVERY = 10.0
"""Seconds of silence after which a sign of life is due."""

SIGN_OF_LIFE = 1e-6
"""So small that it does not overtake what the call reports next."""


class Pulse:
    """What one request has been told of its call's progress; the latest wins."""

    def __init__(self, conversation: Conversation, now: float) -> None:
        self.due = now + FIRST_AFTER
        """When the next sign of life is due, in the loop's time."""
        self._conversation = conversation
        self._progress: Progress | None = None
        self._text = ""
        self._told: float | None = None

    async def follow(self, view: CallView, now: float) -> None:
        """Tell what is new in a view."""
        if view.progress == self._progress and view.text == self._text:
            return
        self._progress, self._text = view.progress, view.text
        await self.beat(now)

    async def beat(self, now: float) -> None:
        self.due = now + EVERY
        reported = self._progress
        self._told = self._next(None if reported is None else reported.progress)
        total, message = (None, None) if reported is None else (reported.total, reported.message)
        await self._conversation.progress(self._told, total, message or self._text or None)

    def _next(self, reported: float | None) -> float:
        told = self._told
        if told is None:
            return 0.0 if reported is None else reported
        if reported is not None and reported > told:
            return reported
        return max(told + SIGN_OF_LIFE, nextafter(told, inf))
