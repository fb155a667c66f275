"""Who sits at a client, and answers what it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Literal

from mcp.client.context import ClientRequestContext
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    SamplingMessage,
    TextContent,
)

from tests.protocol.answers.table import Kind
from tests.protocol.asking import BOUND

By = Literal["ann", "mallory"]
"""Ann is the first to answer; Mallory comes later, with another answer."""

EXPECTED: dict[Kind, str] = {"none": "nobody", "form": "ann", "url": "accept", "sampling": "ann"}
"""What calls make of Ann's answers."""


def answer_of(by: By, kind: Kind) -> ElicitResult | CreateMessageResult:
    match kind:
        case "url":
            return ElicitResult(action="accept" if by == "ann" else "decline")
        case "sampling":
            return CreateMessageResult(role="assistant", content=TextContent(type="text", text=by), model="m")
        case _:
            return ElicitResult(action="accept", content={"by": by})


class Person:
    """Says what it was told to say, for each token, and until then thinks about it."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        """How often, by token."""
        self._sayings: dict[str, By] = {}
        self._news = asyncio.Condition()

    async def elicit(
        self, context: ClientRequestContext, params: ElicitRequestFormParams | ElicitRequestURLParams
    ) -> ElicitResult:
        kind = "url" if isinstance(params, ElicitRequestURLParams) else "form"
        answer = answer_of(await self._says_to(params.message), kind)
        assert isinstance(answer, ElicitResult)
        return answer

    async def sample(self, context: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
        answer = answer_of(await self._says_to(_words(params.messages[0])), "sampling")
        assert isinstance(answer, CreateMessageResult)
        return answer

    async def _says_to(self, question: str) -> By:
        token = question.removesuffix("?")
        await self.see(token)
        async with self._news:
            await self._news.wait_for(lambda: token in self._sayings)
            return self._sayings[token]

    async def see(self, token: str) -> None:
        async with self._news:
            self.asked[token] += 1
            self._news.notify_all()

    async def say(self, token: str, by: By) -> None:
        async with self._news:
            self._sayings[token] = by
            self._news.notify_all()

    async def until_asked(self, token: str, times: int) -> None:
        async with asyncio.timeout(BOUND), self._news:
            await self._news.wait_for(lambda: self.asked[token] >= times)


def _words(message: SamplingMessage) -> Any:
    assert isinstance(message.content, TextContent)
    return message.content.text
