"""Clients of each row: how each sends its request, is asked, answers, and comes back to another life of its server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from mcp import Client
from mcp.server.elicitation import DeclinedElicitation
from mcp_types import CallToolResult, ElicitResult, InputRequiredResult

from perdure.errors import AlreadyAnswered, CallEnded
from tests.protocol import test_legacy_tasks as legacy
from tests.protocol.answers.house import House
from tests.protocol.answers.person import By, Person, answer_of
from tests.protocol.answers.table import Cell, Row
from tests.protocol.asking import BOUND, text, until
from tests.protocol.tasking import ENDED, create, get_task, update_task


@dataclass
class Kept:
    """What a client has to come back with, when its server has gone."""

    state: str | None = None
    call: str | None = None
    """The id of its task; for whom others answer, of its call."""
    question: str | None = None
    """The name of what it was asked."""


@dataclass
class Guest:
    """A request of a client for one call. This one waits, and its person is asked meanwhile: the row `sessions`."""

    cell: Cell
    token: str
    client: Client
    person: Person
    house: House
    kept: Kept
    _request: asyncio.Task[Any] | None = None

    tool = "decide"

    def __post_init__(self) -> None:
        self._asked_before = self.person.asked[self.token]

    @property
    def about(self) -> str:
        """What replies about its call are known by."""
        return self.token

    @property
    def arguments(self) -> dict[str, Any]:
        return {"token": self.token, "kind": self.cell.kind}

    async def send(self) -> None:
        """The request, or once more after its server has gone."""
        self._begin(self.client.call_tool(self.tool, self.arguments))

    async def until_asked(self) -> None:
        """In this life of its server."""
        await self.person.until_asked(self.token, self._asked_before + 1)

    async def answer(self, by: By) -> None:
        await self.person.say(self.token, by)

    async def wait(self) -> None:
        """For the result, in the background."""

    async def result(self) -> str:
        await self.wait()
        assert self._request is not None
        async with asyncio.timeout(BOUND):
            return text(await self._request)

    async def leave(self) -> None:
        if self._request is not None:
            self._request.cancel()
            await asyncio.gather(self._request, return_exceptions=True)

    def _begin(self, request: Coroutine[Any, Any, Any]) -> None:
        self._request = asyncio.create_task(request)


class Stateless(Guest):
    """It is asked by a reply, and comes back with the state that it was given."""

    async def send(self) -> None:
        if self.kept.state is None:
            self._begin(self._round())

    async def until_asked(self) -> None:
        if self._request is None:
            self._begin(self._round())
        assert self._request is not None
        async with asyncio.timeout(BOUND):
            asked = await self._request
        assert isinstance(asked, InputRequiredResult), asked
        (self.kept.question,) = asked.input_requests or {}
        self.kept.state = asked.request_state
        await self.person.see(self.token)

    async def answer(self, by: By) -> None:
        assert self.kept.question is not None
        self._begin(self._round({self.kept.question: answer_of(by, self.cell.kind)}))

    def _round(self, answers: Any = None) -> Coroutine[Any, Any, Any]:
        return self.client.session.call_tool(
            self.tool,
            self.arguments,
            allow_input_required=True,
            request_state=self.kept.state,
            input_responses=answers,
        )


class Holder(Guest):
    """It holds a task, and comes back with its id."""

    tool = "decide_at_leisure"

    async def send(self) -> None:
        if self.kept.call is None:
            self.kept.call = await self._created()

    async def _created(self) -> str:
        raise NotImplementedError

    @property
    def about(self) -> str:
        return self._task

    @property
    def _task(self) -> str:
        assert self.kept.call is not None
        return self.kept.call


class HoldsTask(Holder):
    """The task shows what is asked."""

    async def _created(self) -> str:
        return await create(self.client, self.tool, **self.arguments)

    async def until_asked(self) -> None:
        async def asks() -> bool:
            task = await get_task(self.client.session, self._task)
            self.kept.question = next(iter(task.input_requests or {}), None)
            return task.status == "input_required"

        await until(asks)
        await self.person.see(self.token)

    async def answer(self, by: By) -> None:
        assert self.kept.question is not None
        said = answer_of(by, self.cell.kind).model_dump(by_alias=True, mode="json", exclude_none=True)
        assert await update_task(self.client.session, self._task, {self.kept.question: said}) == {}

    async def wait(self) -> None:
        if self._request is None:
            self._begin(self._ended())

    async def _ended(self) -> CallToolResult:
        while (task := await get_task(self.client.session, self._task)).status not in ENDED:
            assert task.status == "working"
            await asyncio.sleep(0.01)
        return CallToolResult.model_validate(task.result)


class HoldsLegacyTask(Holder):
    """Its person is asked while it waits for the result."""

    async def _created(self) -> str:
        return await legacy.create(self.client, self.tool, **self.arguments)

    async def until_asked(self) -> None:
        await legacy.status(self.client, self._task, "input_required")
        await self.wait()
        await super().until_asked()

    async def wait(self) -> None:
        if self._request is None:
            self._begin(legacy.result(self.client, self._task))


class CannotBeAsked(Guest):
    """It waits, and somebody else answers what its call asks."""

    async def until_asked(self) -> None:
        self.kept.call, self.kept.question = await self.house.asked_by(self.token)

    async def answer(self, by: By) -> None:
        assert self.kept.call is not None
        try:
            await self.house.mcp.calls.answer(self.kept.call, self._value(by), question=self.kept.question)
        except (AlreadyAnswered, CallEnded):
            assert by == "mallory"
        else:
            assert by == "ann"

    def _value(self, by: By) -> Any:
        answer = answer_of(by, self.cell.kind)
        if not isinstance(answer, ElicitResult):
            return by
        return answer.content or {} if answer.action == "accept" else DeclinedElicitation()


GUESTS: dict[Row, type[Guest]] = {
    "stateless with Tasks": HoldsTask,
    "stateless with Tasks, in time": Stateless,
    "stateless": Stateless,
    "sessions with `params.task`": HoldsLegacyTask,
    "sessions": Guest,
    "cannot be asked": CannotBeAsked,
}


def guest_of(cell: Cell) -> type[Guest]:
    # The official client does its rounds by itself, as long as it has one server.
    return Guest if cell.place == "nowhere" and GUESTS[cell.row] is Stateless else GUESTS[cell.row]
