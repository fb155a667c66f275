"""One question while it is with a client that answers on its session."""

from __future__ import annotations

import asyncio
import logging

from mcp.shared.exceptions import MCPError

from perdure.engine import Answer, Engine, Question
from perdure.protocol.conversation import Conversation
from perdure.protocol.inputs import give, no_answer

log = logging.getLogger("perdure")


class Asking:
    """Begun once. It ends with an answer, or without one when it is withdrawn: answered elsewhere, or given up."""

    def __init__(self, conversation: Conversation, question: Question) -> None:
        self._conversation = conversation
        self._question = question
        self.is_answered = False
        """By this client; whether it was the first to answer is another matter."""
        self._task: asyncio.Task[None] | None = None
        self._is_settled = False

    def begin(self, engine: Engine, call_id: str) -> None:
        self._task = asyncio.get_running_loop().create_task(self._ask(engine, call_id))
        self._task.add_done_callback(self._done)

    async def _ask(self, engine: Engine, call_id: str) -> None:
        value = await self._conversation.ask(call_id, self._question)
        if value is not None:
            self.is_answered = True
            try:
                await give(engine, call_id, Answer(self._question.name, value))
            except MCPError as error:
                await give(engine, call_id, no_answer(self._question, error))

    def withdraw(self) -> None:
        """The client is told, if it has not answered."""
        if self._task is not None:
            self._task.cancel()

    async def be_withdrawn(self) -> None:
        """Its client knows."""
        if self._task is not None and not self._task.done():
            self.withdraw()
            await asyncio.wait({self._task})

    async def settle(self) -> None:
        """Its client knows that it is withdrawn, and that nothing will follow it."""
        if not self._is_settled:
            self._is_settled = True
            await self.be_withdrawn()
            await self._conversation.settled(self._question)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the answer to %r could not be delivered", self._question.name, exc_info=error)
