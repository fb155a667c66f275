"""A server written for the official SDK, durable by one import: `MCPServer` is perdure's now.

Nothing else was changed. Its tools keep the SDK's `Context` and do what I/O they like: each call is one recorded
step, which runs to its end without its client and is not done twice for one that asks again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from mcp.server.mcpserver import Context, Elicit, Image, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from perdure import DurableMCP as MCPServer


@dataclass
class Desk:
    """What all requests share."""

    http: httpx.AsyncClient
    notes: dict[str, str] = field(default_factory=dict[str, str])


@asynccontextmanager
async def open_desk(_: object) -> AsyncGenerator[Desk]:
    async with httpx.AsyncClient(timeout=10) as http:
        yield Desk(http, {"welcome": "Hello there"})


mcp = MCPServer("desk", instructions="Notes, and pages of the web.", lifespan=open_desk)

READS = ToolAnnotations(read_only_hint=True)
Name = Annotated[str, Field(description="What the note is called", min_length=1)]


def notes_of(ctx: Context[Desk]) -> dict[str, str]:
    return ctx.request_context.lifespan_context.notes


# --- notes ----------------------------------------------------------------------------------------


class Statistics(BaseModel):
    words: int
    characters: int


class Sure(BaseModel):
    sure: bool = Field(description="The note cannot be had back")


@mcp.tool()
async def write_note(name: Name, text: str, ctx: Context[Desk]) -> str:
    """Write a note, in place of one of the same name."""
    notes_of(ctx)[name] = text
    await ctx.notify_resources_changed()
    return f"note://{name}"


@mcp.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def rename_note(name: Name, new_name: Name, ctx: Context[Desk]) -> str:
    """Give a note another name."""
    notes = notes_of(ctx)
    if name not in notes:
        raise ToolError(f"There is no note {name!r}.")
    notes[new_name] = notes.pop(name)
    return f"note://{new_name}"


async def confirm(name: str) -> Sure | Elicit[Sure]:
    return Elicit(f"Throw {name!r} away?", Sure)


@mcp.tool()
async def throw_away(name: Name, answer: Annotated[Sure, Resolve(confirm)], ctx: Context[Desk]) -> str:
    """Throw a note away, if a person says so."""
    if not answer.sure:
        return "It was kept."
    return "Gone." if notes_of(ctx).pop(name, None) is not None else "It was not there."


@mcp.tool(annotations=READS)
async def list_notes(ctx: Context[Desk]) -> list[str]:
    """The names of all notes."""
    return sorted(notes_of(ctx))


@mcp.tool()
async def quote_note(name: Name, ctx: Context[Desk]) -> str:
    """A note as a quotation."""
    (content,) = await ctx.read_resource(f"note://{name}")
    return f"> {content.content!s}"


@mcp.tool()
def count(text: str) -> Statistics:
    """Count the words and characters of a text."""
    return Statistics(words=len(text.split()), characters=len(text))


# --- pages ----------------------------------------------------------------------------------------


@mcp.tool()
async def fetch(url: str, ctx: Context[Desk]) -> str:
    """The text behind a URL."""
    reply = await ctx.request_context.lifespan_context.http.get(url)
    if reply.status_code == 404:
        raise ToolError(f"There is nothing at {url}.")
    return reply.raise_for_status().text


@mcp.tool()
async def fetch_all(urls: list[str], ctx: Context[Desk]) -> dict[str, int]:
    """How long the texts behind some URLs are."""
    sizes: dict[str, int] = {}
    for done, url in enumerate(urls):
        await ctx.report_progress(done, len(urls), url)
        sizes[url] = len((await ctx.request_context.lifespan_context.http.get(url)).text)
    return sizes


@mcp.tool()
async def dot() -> Image:
    """A picture of one pixel."""
    return Image(data=b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", format="gif")


@mcp.tool()
def who_am_i(ctx: Context[Desk]) -> str:
    """The protocol that the client speaks."""
    return ctx.protocol_version or "none"


# --- what is read ---------------------------------------------------------------------------------


@mcp.resource("note://{name}")
async def note(name: str, ctx: Context[Desk]) -> str:
    notes = notes_of(ctx)
    if name not in notes:
        raise ToolError(f"There is no note {name!r}.")
    return notes[name]


@mcp.prompt()
def summarize(topic: str) -> str:
    return f"Summarize my notes about {topic}."


if __name__ == "__main__":
    mcp.run()
