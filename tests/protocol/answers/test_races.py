"""A question that is answered from two places at once: by its client, and by somebody else in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from perdure.errors import AlreadyAnswered, CallEnded
from tests.protocol.answers.guests import GUESTS, Kept
from tests.protocol.answers.house import House, house_of
from tests.protocol.answers.person import Person
from tests.protocol.answers.table import ERAS_OF, ROWS, Cell, Row

pytestmark = pytest.mark.slow

RACES = 20


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    async with house_of(tmp_path_factory.mktemp("races"), "sse") as house, house.life():
        yield house


@pytest.mark.parametrize("row", [row for row in ROWS if row != "cannot be asked"])
async def test_one_answer_wins_and_who_answers_from_elsewhere_hears_whether_it_was_the_other(
    house: House, row: Row
) -> None:
    (era,) = ERAS_OF[row]
    cell, person = Cell(row, era, "sse", "nowhere", "form"), Person()

    async def elsewhere(call_id: str) -> bool:
        try:
            await house.mcp.calls.answer(call_id, {"by": "console"}, question="question")
        except (AlreadyAnswered, CallEnded):
            return False
        return True

    async with house.client(row, era, person) as client:
        for number in range(RACES):
            guest = GUESTS[row](cell, f"{row}, {number}", client, person, house, Kept())
            await guest.send()
            await guest.until_asked()
            call_id, _ = await house.asked_by(guest.token)
            won, _ = await asyncio.gather(elsewhere(call_id), guest.answer("ann"))
            # Its client gets the result of the answer that counts, as if there had been no other.
            assert await guest.result() == f"{guest.token}: {'console' if won else 'ann'}"
            assert house.effects(guest.token) == ["begins", "works", "done"]
