"""Tasks on the wire, as no client has read it: fields, headers, the order of a stream, other versions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp_types import CLIENT_CAPABILITIES_META_KEY, METHOD_NOT_FOUND, PROTOCOL_VERSION_META_KEY

from perdure.protocol.tasks import TASKS
from tests.protocol.mounted import mounted
from tests.protocol.test_tasks import make
from tests.protocol.wired import BOUND, STATELESS

HEADER_MISMATCH = -32020


class Wire:
    """The stateless era by hand."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    def request(self, method: str, params: dict[str, Any], name: str | None) -> dict[str, Any]:
        meta: dict[str, Any] = {
            PROTOCOL_VERSION_META_KEY: STATELESS,
            CLIENT_CAPABILITIES_META_KEY: {"extensions": {TASKS: {}}},
        }
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": STATELESS,
            "mcp-method": method,
            **({} if name is None else {"mcp-name": name}),
        }
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}
        return {"url": self._url, "headers": headers, "json": message}

    async def post(self, method: str, params: dict[str, Any], name: str | None) -> tuple[int, dict[str, Any]]:
        reply = await self._http.post(**self.request(method, params, name))
        (message,) = messages_in(reply.text)
        return reply.status_code, message

    async def create(self, tool: str) -> dict[str, Any]:
        _, message = await self.post("tools/call", {"name": tool, "arguments": {}}, tool)
        return message["result"]

    def listen(self, *task_ids: str) -> Any:
        params = {"notifications": {"taskIds": list(task_ids), "toolsListChanged": True}}
        return self._http.stream("POST", **self.request("subscriptions/listen", params, None))


def messages_in(body: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data:").strip() for line in body.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


@asynccontextmanager
async def wire() -> AsyncGenerator[Wire]:
    async with mounted(make()) as url, httpx.AsyncClient(timeout=BOUND) as http:
        yield Wire(http, url)


async def test_a_created_task_has_the_fields_of_one_and_no_others() -> None:
    async with wire() as it:
        task = await it.create("wait")
        assert task.keys() - {"_meta", "statusMessage"} == {
            "resultType",
            "taskId",
            "status",
            "createdAt",
            "lastUpdatedAt",
            "ttlMs",
            "pollIntervalMs",
        }
        assert (task["resultType"], task["status"], task["ttlMs"]) == ("task", "working", None)
        assert task["createdAt"].endswith("Z")


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.parametrize("name", [None, "", "another", "wait"])
async def test_the_header_of_the_name_must_be_the_task_s_id(method: str, name: str | None) -> None:
    async with wire() as it:
        task = (await it.create("wait"))["taskId"]
        status, message = await it.post(method, {"taskId": task, "inputResponses": {}}, name)
        assert (status, message["error"]["code"]) == (400, HEADER_MISMATCH)
        status, message = await it.post(method, {"taskId": task, "inputResponses": {}}, task)
        assert (status, message["result"]["resultType"]) == (200, "complete")


@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
async def test_methods_of_the_old_tasks_are_not_there_in_the_stateless_era(method: str) -> None:
    async with wire() as it:
        _, message = await it.post(method, {"taskId": "any"}, "any")
        assert message["error"]["code"] == METHOD_NOT_FOUND


async def test_a_stream_begins_with_the_acknowledgement_which_names_the_tasks() -> None:
    async with wire() as it:
        task = (await it.create("whole"))["taskId"]
        async with it.listen(task, "0" * 32) as reply:
            seen: list[dict[str, Any]] = []
            async for line in reply.aiter_lines():
                seen += messages_in(line)
                if len(seen) == 2:
                    break
        acknowledged, news = seen
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {"taskIds": [task], "toolsListChanged": True}
        assert news["method"] == "notifications/tasks"
        assert (news["params"]["taskId"], news["params"]["status"]) == (task, "completed")
        assert news["params"]["result"]["structuredContent"] == {"number": 3}
        stamp = {"io.modelcontextprotocol/subscriptionId": 7}
        assert acknowledged["params"]["_meta"] == news["params"]["_meta"] == stamp


# --- sessions -------------------------------------------------------------------------------------


class Session:
    """One of a given version, by hand."""

    def __init__(self, http: httpx.AsyncClient, url: str, version: str) -> None:
        self._http = http
        self._url = url
        self.version = version
        self._headers = {"accept": "application/json, text/event-stream"}

    async def open(self) -> dict[str, Any]:
        client = {"name": "raw", "version": "1"}
        params = {"protocolVersion": self.version, "capabilities": {}, "clientInfo": client}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        reply = await self._http.post(self._url, headers=self._headers, json=message)
        self._headers |= {
            "mcp-session-id": reply.headers["mcp-session-id"],
            "mcp-protocol-version": self.version,
        }
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self._http.post(self._url, headers=self._headers, json=initialized)
        return messages_in(reply.text)[0]["result"]

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = await self._http.post(self._url, headers=self._headers, json=message)
        (answer,) = (each for each in messages_in(reply.text) if each.get("id") == 1)
        return answer


@pytest.mark.parametrize("version", ["2025-06-18", "2025-03-26"])
async def test_versions_before_tasks_have_none(version: str) -> None:
    async with mounted(make()) as url, httpx.AsyncClient(timeout=BOUND) as http:
        session = Session(http, url, version)
        assert "tasks" not in (await session.open())["capabilities"]
        tools = (await session.ask("tools/list"))["result"]["tools"]
        assert all("execution" not in tool for tool in tools)
        for method in ("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"):
            assert (await session.ask(method, taskId="any"))["error"]["code"] == METHOD_NOT_FOUND
        waited = await session.ask("tools/call", name="whole", arguments={}, task={"ttl": 1000})
        assert waited["result"]["structuredContent"] == {"number": 3}


async def test_a_task_of_2025_11_25_has_the_fields_of_one() -> None:
    async with mounted(make()) as url, httpx.AsyncClient(timeout=BOUND) as http:
        session = Session(http, url, "2025-11-25")
        await session.open()
        created = await session.ask("tools/call", name="wait", arguments={}, task={"ttl": 1000})
        assert created["result"].keys() == {"task"}
        task = created["result"]["task"]
        assert task.keys() - {"statusMessage"} == {
            "taskId",
            "status",
            "createdAt",
            "lastUpdatedAt",
            "ttl",
            "pollInterval",
        }
        assert (task["status"], task["ttl"]) == ("working", None)
