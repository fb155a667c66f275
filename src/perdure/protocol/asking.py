"""One question while it is with a client that answers on its session."""

from __future__ import annotations

import asyncio
import logging

from mcp.shared.exceptions import MCPError

from perdure.engine import Answer, Engine, Question
from perdure.errors import StorageError
from perdure.protocol.conversation import Conversation
from perdure.protocol.inputs import give, no_answer

log = logging.getLogger("perdure")


class Asking:
    """Asked once. It ends with an answer, or without one when it is withdrawn: answered elsewhere, or given up."""

    def __init__(self, conversation: Conversation, question: Question) -> None:
        self._conversation = conversation
        self._question = question
        self._answer: bytes | None = None
        self.is_recorded = True
        """False: the answer came, and could not be written. `begin` gives the same again."""
        self._task: asyncio.Task[None] | None = None
        self._is_settled = False

    @property
    def is_answered(self) -> bool:
        """By this client; whether it was the first to answer is another matter."""
        return self._answer is not None

    def begin(self, engine: Engine, call_id: str) -> None:
        self.is_recorded = True
        self._task = asyncio.get_running_loop().create_task(self._ask(engine, call_id))
        self._task.add_done_callback(self._done)

    async def _ask(self, engine: Engine, call_id: str) -> None:
        if self._answer is None:
            self._answer = await self._conversation.ask(call_id, self._question)
        if self._answer is not None:
            try:
                await self._give(engine, call_id, self._answer)
            except StorageError:
                self.is_recorded = False
                raise

    async def _give(self, engine: Engine, call_id: str, answer: bytes) -> None:
        try:
            await give(engine, call_id, Answer(self._question.name, answer))
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
