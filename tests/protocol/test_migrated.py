"""A server of ten tools for the official SDK becomes durable by its import alone (examples/migrated.py)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult

from perdure import DurableMCP
from tests.protocol.asking import MODES, asked, calls_of

SOURCE = Path(__file__).parents[2] / "examples" / "migrated.py"
OURS = "from perdure import DurableMCP as MCPServer"
THEIRS = "from mcp.server.mcpserver import MCPServer"


def loaded(name: str, source: str) -> Any:
    """A module of this source, registered, because annotations are looked up there."""
    spec = spec_from_loader(name, loader=None)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    exec(compile(source, str(SOURCE), "exec"), module.__dict__)
    return module.mcp


@pytest.fixture
def before() -> MCPServer[Any]:
    source = SOURCE.read_text()
    assert source.count(OURS) == 1
    return loaded("migrated_before", source.replace(OURS, THEIRS))


@pytest.fixture
def after() -> DurableMCP[Any]:
    mcp: DurableMCP[Any] = loaded("migrated_after", SOURCE.read_text())
    mcp.engine = "memory:"
    return mcp


@pytest.fixture
async def pages() -> AsyncGenerator[str]:
    """Somebody's web server."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        status, body = (b"404 Not Found", b"") if path == b"/missing" else (b"200 OK", b"page " + path)
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


def conversation(pages: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("list_notes", {}),
        ("write_note", {"name": "plan", "text": "sail round the world"}),
        ("write_note", {"name": "", "text": "refused"}),
        ("rename_note", {"name": "plan", "new_name": "dream"}),
        ("rename_note", {"name": "plan", "new_name": "gone already"}),
        ("quote_note", {"name": "dream"}),
        ("quote_note", {"name": "nothing"}),
        ("count", {"text": "one two"}),
        ("fetch", {"url": f"{pages}/a"}),
        ("fetch", {"url": f"{pages}/missing"}),
        ("fetch", {"url": "http://127.0.0.1:1/refused"}),
        ("fetch_all", {"urls": [f"{pages}/a", f"{pages}/b"]}),
        ("dot", {}),
        ("who_am_i", {}),
        ("throw_away", {"name": "dream"}),
        ("list_notes", {}),
    ]


async def held(mcp: MCPServer[Any], mode: str, pages: str) -> list[Any]:
    """All of it: what is listed, what each tool answers, what is read, and what progress was told."""

    async def agree(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"sure": True})

    said = list[Any]()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        said.append((progress, total, message))

    async with Client(mcp, mode=mode, elicitation_callback=agree) as client:
        tools = (await client.list_tools()).tools
        # That it can be a task is all that is new about a tool.
        said.append([tool.model_copy(update={"execution": None}) for tool in tools])
        for tool, arguments in conversation(pages):
            result = await client.call_tool(tool, arguments, progress_callback=hear)
            said.append(result.model_dump(exclude={"meta"}))
        said.append((await client.read_resource("note://welcome")).contents)
        said.append((await client.get_prompt("summarize", {"topic": "boats"})).messages)
        with pytest.raises(MCPError) as missing:
            await client.read_resource("note://nothing")
        said.append(missing.value.error)
    return said


@pytest.mark.parametrize("mode", MODES)
async def test_it_answers_as_before(mode: str, before: MCPServer[Any], after: DurableMCP[Any], pages: str) -> None:
    for was, now in zip(await held(before, mode, pages), await held(after, mode, pages), strict=True):
        assert now == was


async def test_what_changes_something_is_recorded_and_the_rest_is_not(after: DurableMCP[Any], pages: str) -> None:
    async with after.serving():
        await held(after, "auto", pages)
        recorded = {tool.tool for tool in (await after.calls.find()).calls}
    every_tool = {tool for tool, _ in conversation(pages)}
    assert len(every_tool) == 10
    assert every_tool - recorded == {"list_notes", "throw_away"}


async def test_a_call_survives_its_client_now(after: DurableMCP[Any]) -> None:
    arrived, proceed = asyncio.Event(), asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await proceed.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(slowly, "127.0.0.1", 0) as server, after.serving():
        host, port = server.sockets[0].getsockname()
        arguments = {"url": f"http://{host}:{port}/"}
        async with Client(after) as client, asked(client.call_tool("fetch", arguments)):
            await arrived.wait()
        proceed.set()
        async with Client(after) as client:
            assert (await client.call_tool("fetch", arguments)).structured_content == {"result": "slow"}
        assert len(await calls_of(after)) == 1
