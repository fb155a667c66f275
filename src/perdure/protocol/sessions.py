"""The era of sessions, up to 2025-11-25: one connection carries everything a client hears."""

from __future__ import annotations

import secrets

from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import CONNECTION_CLOSED

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import Question, QuestionKind
from perdure.protocol.conversation import log_message
from perdure.protocol.inputs import answers_in, method_of, no_answer
from perdure.protocol.questions import asks_of
from perdure.protocol.sdk import RequestContext, ask_client


class SessionConversation:
    """Progress and log go with the request; changes of lists are the session's own."""

    asks_by_reply = False

    def __init__(self, request: RequestContext) -> None:
        self._request = request
        self._session = request.session
        self._request_id = request.request_id
        # JSON responses and `stateless_http` have no way back to the client.
        can_ask = self._session.can_send_request
        self.asks: frozenset[QuestionKind] = asks_of(self._session.client_capabilities if can_ask else None)
        self._visits: set[str] = set()
        """Pages that its user was asked to open, and did not decline to."""

    async def ask(self, call_id: str, question: Question) -> bytes | None:
        # Never an integer, and unique over restarts: a session's messages may be replayed to its client by another
        # process, which counts from 1 again.
        request_id = f"question-{secrets.token_hex(16)}"
        self._visits.add(question.name)
        try:
            said = await ask_client(self._request, method_of(question), question.params, request_id)
            (answer,) = answers_in({question.name: said}, [question])
        except NoBackChannelError:
            return None
        except MCPError as error:
            self._visits.discard(question.name)
            return None if error.code == CONNECTION_CLOSED else no_answer(question, error).value
        if said.get("action") != "accept":
            self._visits.discard(question.name)
        return answer.value

    async def settled(self, question: Question) -> None:
        if question.kind == "url" and question.name in self._visits:
            await self._session.send_elicit_complete(question.params["elicitationId"], self._request_id)

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
