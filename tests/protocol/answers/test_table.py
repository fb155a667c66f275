"""docs/clients.md: its tables are those that are tested, and no cell is missing without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.protocol.answers import test_answers
from tests.protocol.answers.table import CELLS, ROWS, Fate, fate, places_markdown, reasons, transports_markdown

PAGE = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()


def test_every_cell_is_tested_or_it_is_said_why_not() -> None:
    function: Any = test_answers.test_a_client_gets_what_the_table_says
    (mark,) = (mark for mark in function.pytestmark if mark.name == "parametrize")
    tested = {each.values[0] for each in mark.args[1]}
    missing = [cell for cell in CELLS if cell not in tested]
    assert [cell for cell in missing if isinstance(fate(cell), Fate)] == []
    assert tested.isdisjoint(missing)
    assert tested <= set(CELLS)


def test_the_page_has_the_tables() -> None:
    assert transports_markdown() in PAGE
    assert places_markdown() in PAGE


def test_the_page_says_why_cells_are_missing() -> None:
    bullets = PAGE.partition("What is not in these tables:\n\n")[2].splitlines()
    assert sorted(bullet.removeprefix("- ").rstrip(";.") for bullet in bullets) == reasons()


def test_the_page_has_a_row_for_each_client() -> None:
    table = PAGE.partition("| client |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == list(ROWS)
