"""docs/questions.md: its server asks each kind of client as its table says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import ElicitResult, InputRequiredResult

from perdure import DurableMCP
from perdure.protocol.seal import SUFFIX
from tests.docs.test_tutorial import FENCE
from tests.protocol.asking import MODES, asked, calls_of, text, until
from tests.protocol.questioned import Person
from tests.protocol.questions_table import CLIENTS

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text()


@pytest.fixture
def mcp(tmp_path: Path) -> DurableMCP[Any]:
    (found,) = FENCE.finditer(PAGE)
    (tmp_path / found["file"]).write_text(found["text"])
    names: dict[str, Any] = {"__name__": "trips"}
    exec(compile(found["text"], found["file"], "exec"), names)
    mcp: DurableMCP[Any] = names["mcp"]
    mcp.engine = tmp_path / "trips.db"
    return mcp


def approved(_: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"approved": True, "note": "Have fun."})


async def asks(mcp: DurableMCP[Any]) -> bool:
    return any(call.questions for call in (await mcp.calls.find()).calls)


@pytest.mark.parametrize("mode", MODES)
async def test_its_server_asks_and_books(mcp: DurableMCP[Any], mode: str) -> None:
    person = Person(approved)
    async with Client(mcp, mode=mode, elicitation_callback=person.answer) as client:
        assert text(await client.call_tool("book", {"city": "Oslo"})) == "Oslo is booked. Have fun."
    assert person.asked == ["A trip to Oslo?"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_cannot_be_asked_waits_for_an_answer_from_elsewhere(
    mcp: DurableMCP[Any], mode: str
) -> None:
    async with Client(mcp, mode=mode) as client, asked(client.call_tool("book", {"city": "Oslo"})) as answer:
        await until(lambda: asks(mcp))
        ((call, _),) = await calls_of(mcp)
        await mcp.calls.answer(call, {"approved": False, "note": "Too far."})
        assert text(await answer) == "Oslo is not approved. Too far."


async def test_the_key_is_where_the_page_says(mcp: DurableMCP[Any], tmp_path: Path) -> None:
    async with Client(mcp, mode="2026-07-28", elicitation_callback=Person().answer) as client:
        first = await client.session.call_tool("book", {"city": "Oslo"}, allow_input_required=True)
    assert isinstance(first, InputRequiredResult)
    (name,) = re.findall(r"`(trips\.db-\w+)`", PAGE)
    assert (tmp_path / name).exists()
    assert name.endswith(SUFFIX)


def test_the_table_has_the_clients_that_are_tested() -> None:
    table = PAGE.partition("## What each client sees")[2]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row.partition(" (")[0].partition(":")[0] for row in rows] == list(CLIENTS)
