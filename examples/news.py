"""News of a topic that the reader is asked for once; each story is summarized by the reader's own model."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

import httpx
from mcp.server.mcpserver import AcceptedElicitation
from pydantic import BaseModel, Field

from perdure import DurableContext, DurableMCP, OpenAISampler, Retry, StepFailed, step

# Where the client has no model: that of an endpoint of ours, if there is one.
SAMPLER = OpenAISampler(os.environ["NEWS_MODEL"]) if "NEWS_MODEL" in os.environ else None

mcp = DurableMCP("news", sampler=SAMPLER)


class Topic(BaseModel):
    topic: str = Field(min_length=1, max_length=100, description="What the stories are to be about")


class Story(BaseModel):
    title: str
    url: str


topics = mcp.store("topics", str, per_principal=True)


def service() -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=os.environ.get("NEWS_URL", "https://hn.algolia.com"), timeout=30)


@step
async def search(topic: str) -> list[Story]:
    async with service() as http:
        found = (await http.get("/api/v1/search", params={"query": topic, "tags": "story"})).raise_for_status().json()
    return [Story(title=hit["title"], url=hit["url"]) for hit in found["hits"] if hit.get("url")][:3]


@step(retry=Retry(attempts=2))
async def page(url: str) -> str:
    async with httpx.AsyncClient(follow_redirects=True, timeout=30) as http:
        return (await http.get(url)).raise_for_status().text[:20_000]


async def summary(story: Story, ctx: DurableContext) -> str:
    try:
        text = await page(story.url)
    except StepFailed:
        return f"{story.title}: the page could not be read."
    said = await ctx.sample(f"Summarize in one sentence:\n{text}", max_tokens=200, temperature=0)
    return f"{story.title}: {said.text}"


@mcp.tool()
async def latest_stories(ctx: DurableContext) -> str:
    """The latest stories about your topic."""
    topic = await topics.get("topic")
    if topic is None:
        answer = await ctx.elicit("Which topic?", Topic, name="topic", timeout=timedelta(hours=1))
        if not isinstance(answer, AcceptedElicitation):
            return "No topic, no news."
        topic = answer.data.topic
        await topics.set("topic", topic)
    stories = await search(topic)
    return "\n".join(await asyncio.gather(*(summary(story, ctx) for story in stories)))


if __name__ == "__main__":
    mcp.run()
