"""The stateless era, from 2026-07-28: a request's own stream carries what is about it, and nothing else."""

from __future__ import annotations

from typing import Any

from mcp.server.connection import allowed_log_levels
from mcp.server.context import ServerRequestContext

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import Question, QuestionKind
from perdure.protocol.conversation import log_message


class StatelessConversation:
    """Log messages are for requests that opted in; changes go to those who listen, through the subscription bus."""

    asks_by_reply = True

    def __init__(self, request: ServerRequestContext[Any, Any]) -> None:
        self.asks: frozenset[QuestionKind] = frozenset()
        self._session = request.session
        self._request_id = request.request_id
        self._levels = allowed_log_levels(request.protocol_version, request.meta)

    async def ask(self, call_id: str, question: Question) -> bytes | None: ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        await self._session.report_progress(progress, total, message)

    async def log(self, entry: SendLog) -> None:
        if entry.level in self._levels:
            await self._session.send_notification(log_message(entry), self._request_id)

    async def changed(self, change: NotifyChange) -> None: ...
