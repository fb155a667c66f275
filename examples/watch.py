"""Nobody asks: pages are looked at every hour, and one that somebody watches is followed for as long as they want."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta

import httpx

from perdure import DurableContext, DurableMCP, Signal, step

mcp = DurableMCP("watch")

stop = Signal("stop", bool)
pages = mcp.store("pages", str)
PAUSE = timedelta(minutes=5)


@step
async def fingerprint(path: str) -> str:
    async with httpx.AsyncClient(base_url=os.environ.get("PAGES_URL", "https://www.python.org"), timeout=30) as http:
        return hashlib.sha256((await http.get(path)).raise_for_status().content).hexdigest()[:12]


@mcp.job(every=timedelta(hours=1))
async def look_at_all(ctx: DurableContext) -> list[str]:
    """One call per hour, however many processes serve the file; what nobody was there for is made up once."""
    changed: list[str] = []
    for path, before in await pages.items():
        now = await fingerprint(path)
        if now != before:
            changed.append(path)
            await pages.set(path, now)
    return changed


@mcp.tool(key="{path}", signals=[stop])
async def follow(path: str, ctx: DurableContext, changes: int = 0, last: str = "") -> str:
    """Look at a page every five minutes until `stop`: the journal begins anew each time, the call goes on for ever."""
    now = await fingerprint(path)
    changes += last not in ("", now)
    await pages.set(path, now)
    await ctx.set_status(f"{changes} changes")
    try:
        await ctx.receive(stop, timeout=PAUSE)
    except TimeoutError:
        await ctx.continue_as(changes=changes, last=now)
    return f"{path} changed {changes} times."


if __name__ == "__main__":
    mcp.run()
