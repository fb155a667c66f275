"""Children that say where they listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.cli.children import listening
from perdure.cli.problem import Problem

BUSY = """
print("INFO HTTP Request: GET http://127.0.0.1:9/payments/1 200 OK", flush=True)
print("{said}", flush=True)
input()
"""


@pytest.mark.parametrize("said", ["Listening on http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000/mcp"])
async def test_the_address_of_a_child_is_its_own_and_none_that_it_asked(said: str, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY.format(said=said))
    async with listening("busy", settings={"PYTHONPATH": str(tmp_path)}) as child:
        assert child.address == "http://127.0.0.1:8000/mcp"


async def test_a_child_that_ends_before_it_listens_is_a_problem_that_shows_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('no such server')")
    with pytest.raises(Problem, match="no such server"):
        async with listening("broken", settings={"PYTHONPATH": str(tmp_path)}):
            pass
