"""Bodies with everything in them that `perdure check` looks for: each line that it is to find ends with an `# !`."""

# ruff: noqa: DTZ003, DTZ005, DTZ006, DTZ011
# pyright: reportDeprecated=false, reportUnusedExpression=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
from datetime import datetime, timedelta
from os import environ
from pathlib import Path
from random import choice
from time import time as now
from typing import Any

import httpx
from mcp_types import ToolAnnotations

from perdure import DurableContext, DurableMCP, step

mcp = DurableMCP("suspicious")
notes = mcp.store("notes", str)

seen: list[str] = []
cache: dict[str, int] = {}
total = 0
CITIES = ("Oslo", "Bergen")


class Settings:
    base_url = "https://example.org"


settings = Settings()


@step
async def fetch(url: str) -> str:
    async with httpx.AsyncClient() as http:  # a step may do what it likes
        time.sleep(0)
        return (await http.get(f"{url}?{random.random()}")).text


@step
async def unannotated(url: str):
    return url


@mcp.tool()
async def clocks(ctx: DurableContext) -> str:
    time.time()  # !
    now()  # !
    time.monotonic()  # !
    datetime.now()  # !
    datetime.utcnow()  # !
    dt.datetime.now(dt.UTC)  # !
    dt.date.today()  # !
    time.sleep(1)  # !
    datetime.fromtimestamp(0)
    await asyncio.sleep(1)
    await ctx.sleep(timedelta(days=1))
    return f"{ctx.now()}"


@mcp.tool()
async def chances(ctx: DurableContext) -> Any:
    random.random()  # !
    choice(CITIES)  # !
    random.Random(7).random()
    secrets.token_hex(8)  # !
    os.urandom(8)  # !
    uuid.uuid4()  # !
    uuid.UUID(int=1)
    hash("Oslo")  # !
    ctx.random.choice(CITIES)
    return ctx.uuid4()


@mcp.tool()
async def effects(ctx: DurableContext) -> str:
    os.environ["HOME"]  # !
    environ.get("HOME")  # !
    os.getenv("HOME")  # !
    open("file")  # !  # noqa: SIM115
    Path("file").read_text()  # !
    os.path.exists("file")  # !
    os.path.join("folder", "file")
    httpx.get("https://example.org")  # !
    httpx.URL("https://example.org")
    socket.create_connection(("127.0.0.1", 1))  # !
    subprocess.run(["true"])  # !
    threading.Thread()  # !
    await asyncio.to_thread(len, "x")  # !
    await asyncio.get_running_loop().run_in_executor(None, len, "x")  # !
    import sqlite3

    sqlite3.connect("file")  # !
    return await fetch("https://example.org")


@mcp.tool()
async def shared_state(ctx: DurableContext) -> str:
    global total  # !
    total += 1
    seen.append("x")  # !
    cache["x"] = 1  # !
    settings.base_url = "elsewhere"  # !
    own = list[str]()
    own.append("x")
    counts = {"x": 1}
    counts["y"] = 2
    await notes.update("x", lambda before: before)
    return settings.base_url


@mcp.tool()
async def orders(ctx: DurableContext) -> None:
    for city in set(CITIES):  # !
        await fetch(city)
    for city in sorted(set(CITIES)):
        await fetch(city)
    for done in asyncio.as_completed([fetch(city) for city in CITIES]):  # !
        await done
    tasks = [asyncio.create_task(fetch(city)) for city in CITIES]
    for done in asyncio.as_completed(tasks):
        await done
    await unannotated("x")  # !


@mcp.job()
async def indirectly(ctx: DurableContext) -> str:
    return await helper()


async def helper() -> str:
    return deeper()


def deeper() -> str:
    return f"{time.time()}"  # !


@mcp.tool()
async def with_steps_of_its_own(ctx: DurableContext) -> float:
    async def read() -> str:
        return Path("file").read_text()

    @step
    async def clock() -> float:
        return time.time()

    @step(name="dice")
    async def dice() -> float:
        return random.random()

    async def part() -> float:
        return time.time()  # !

    await ctx.step(read)
    await ctx.step(lambda: time.time())
    return await clock() + await dice() + await part()


@mcp.tool()
async def steps_without_a_context(url: str) -> str:
    time.time()
    return await fetch(url)  # !


@mcp.tool(rerun=True, key="x-{url}", shared=True)
async def again(url: str) -> str:
    return str(fetch.fn(url))


@mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
async def look(url: str) -> str:
    return f"{time.time()}"


def by_name(name: str) -> str:
    return name


@mcp.tool(key=by_name)
async def keyed(name: str, ctx: DurableContext) -> str:
    time = name  # its own, not the module
    return time.title()


@mcp.prompt()
def greeting() -> str:
    return "hello"


@mcp.resource("note://{name}")
async def note(name: str, ctx: DurableContext) -> str:
    return await notes.get(name) or ""
