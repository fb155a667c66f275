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
        """When the next sign of life is due, in the time of the engine's clock."""
        self.has_news = False
        self._conversation = conversation
        self._progress: Progress | None = None
        self._text = ""
        self._told: float | None = None

    def follow(self, view: CallView) -> bool:
        """Look at a newer view: whether there is something to tell."""
        if view.progress != self._progress or view.text != self._text:
            self._progress, self._text = view.progress, view.text
            self.has_news = True
        return self.has_news

    async def beat(self, now: float) -> None:
        """Tell how far it is, or that it is still alive."""
        self.due = now + EVERY
        self.has_news = False
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
