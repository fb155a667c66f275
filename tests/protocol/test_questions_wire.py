"""Questions reach the client of the request, over each transport and in both eras."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.asking import text
from tests.protocol.questioned import House, Person, house_of, yes

CELLS = [
    (transport, era)
    for transport in ("memory", "stdio", "sse", "json")
    for era in ("sessions", "stateless")
    if (transport, era) != ("json", "sessions")  # it has no way to ask: below
]
each_cell = pytest.mark.parametrize(
    ("transport", "era"),
    [pytest.param(*cell, id="-".join(cell), marks=() if cell[0] == "memory" else pytest.mark.slow) for cell in CELLS],
)


@pytest.fixture
async def house(tmp_path: Path, transport: Any, era: Any) -> AsyncGenerator[House]:
    async with house_of(tmp_path, transport, era) as house:
        yield house


@each_cell
async def test_a_question_is_asked_and_its_answer_goes_on(house: House) -> None:
    person = Person()
    async with house.served_client(person) as client:
        assert text(await client.call_tool("pay", {"amount": 3})) == "paid 3, by ann"
    assert person.asked == ["Pay 3?"]
    assert house.effects == ["works", "paid 3"]


@each_cell
async def test_several_questions_at_once(house: House) -> None:
    person = Person(lambda params: yes(params.message))
    async with house.served_client(person) as client:
        assert text(await client.call_tool("both", {})) == "boss?, bank?"
    assert sorted(person.asked) == ["bank?", "boss?"]
