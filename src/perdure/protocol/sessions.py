"""The era of sessions, up to 2025-11-25: one connection carries everything a client hears."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import Question, QuestionKind
from perdure.protocol.conversation import log_message


class SessionConversation:
    """Progress and log go with the request; changes of lists are the session's own."""

    asks_by_reply = False

    def __init__(self, request: ServerRequestContext[Any, Any]) -> None:
        self.asks: frozenset[QuestionKind] = frozenset()
        self._session = request.session
        self._request_id = request.request_id

    async def ask(self, call_id: str, question: Question) -> bytes | None: ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        await self._session.report_progress(progress, total, message)

    async def log(self, entry: SendLog) -> None:
        await self._session.send_notification(log_message(entry), self._request_id)

    async def changed(self, change: NotifyChange) -> None:
        match change.what:
            case "tools":
                await self._session.send_tool_list_changed()
            case "prompts":
                await self._session.send_prompt_list_changed()
            case "resources":
                await self._session.send_resource_list_changed()
            case "resource":
                await self._session.send_resource_updated(change.uri or "")
