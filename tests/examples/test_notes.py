from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mcp import Client

from examples.notes import mcp
from tests.examples.service import ask


@pytest.fixture(autouse=True)
def in_a_file(tmp_path: Path) -> None:
    mcp.engine = tmp_path / "notes.db"


async def test_a_note_outlives_the_server_as_a_resource_and_in_a_prompt() -> None:
    async with Client(mcp) as client:
        uri = await ask(client, "write_note", title="Trip", text="to Oslo")
    async with Client(mcp) as client:
        assert "# Trip" in str((await client.read_resource(uri)).contents)
        assert "Trip: to Oslo" in str((await client.get_prompt("summarize_notes")).messages)
        assert "no such note" in str((await client.read_resource("note:///unknown")).contents)


async def test_what_is_only_read_leaves_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sales = tmp_path / "sales.db"
    with closing(sqlite3.connect(sales)) as database, database:
        database.execute("CREATE TABLE sales (city, amount)")
        database.execute("INSERT INTO sales VALUES ('Oslo', 5)")
    monkeypatch.setenv("SALES", str(sales))
    async with Client(mcp) as client:
        result = await client.call_tool("query", {"sql": "SELECT * FROM sales"})
        assert result.structured_content == {"result": [["Oslo", 5]]}
        assert (await client.call_tool("query", {"sql": "DELETE FROM sales"})).is_error
        assert (await mcp.calls.find()).calls == []
