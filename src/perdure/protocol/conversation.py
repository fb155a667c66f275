"""What a request can be told while it waits: an object per era, so that nobody else asks which one it is."""

from __future__ import annotations

from typing import Protocol

from mcp_types import LoggingMessageNotification, LoggingMessageNotificationParams
from pydantic_core import from_json

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import Question, QuestionKind


class Conversation(Protocol):
    """The client's side of one request. What the client did not opt in to goes nowhere."""

    @property
    def asks(self) -> frozenset[QuestionKind]:
        """What the client can be asked."""
        ...

    @property
    def asks_by_reply(self) -> bool:
        """Its questions are the answer to its request; else each is asked with `ask`, while the request waits."""
        ...

    async def ask(self, call_id: str, question: Question) -> bytes | None:
        """The client's answer, as `engine.Answer` has it; None where it did not come, and somebody else may give it."""
        ...

    async def settled(self, question: Question) -> None:
        """What was asked with `ask` needs no answer any more, or what was to follow it has followed."""
        ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None: ...
    async def log(self, entry: SendLog) -> None: ...
    async def changed(self, change: NotifyChange) -> None: ...


class Nobody:
    """A program asked, and not a client."""

    asks = frozenset[QuestionKind]()
    asks_by_reply = False

    async def ask(self, call_id: str, question: Question) -> bytes | None: ...
    async def settled(self, question: Question) -> None: ...
    async def progress(self, progress: float, total: float | None, message: str | None) -> None: ...
    async def log(self, entry: SendLog) -> None: ...
    async def changed(self, change: NotifyChange) -> None: ...


def log_message(entry: SendLog) -> LoggingMessageNotification:
    return LoggingMessageNotification(
        params=LoggingMessageNotificationParams(level=entry.level, data=from_json(entry.data), logger=entry.logger)
    )
