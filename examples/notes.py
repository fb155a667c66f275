"""Notes, each caller's own: in a store, as resources, in a prompt; and a database that is only read."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from mcp_types import ToolAnnotations
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP

mcp = DurableMCP("notes")


class Note(BaseModel):
    title: str
    text: str


notes = mcp.store("notes", Note, per_principal=True)


@mcp.tool()
async def write_note(title: str, text: str, ctx: DurableContext) -> str:
    """Write a note."""
    id = str(ctx.uuid4())  # the same in every replay
    await notes.set(id, Note(title=title, text=text))
    await ctx.notify_resources_changed()
    return f"note:///{id}"


@mcp.resource("note:///{id}")
async def note(id: str) -> str:
    found = await notes.get(id)
    return "There is no such note." if found is None else f"# {found.title}\n\n{found.text}"


@mcp.prompt()
async def summarize_notes() -> str:
    texts = [f"{note.title}: {note.text}" for _, note in await notes.items()]
    return "Summarize my notes:\n" + "\n".join(texts)


@mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
def query(sql: str) -> list[Any]:
    """Ask the sales database. It is only read, so nothing is recorded: asking again is free."""
    with sqlite3.connect(f"file:{os.environ['SALES']}?mode=ro", uri=True) as database:
        return database.execute(sql).fetchall()


if __name__ == "__main__":
    mcp.run()
