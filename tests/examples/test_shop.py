from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client

from examples.shop import mcp, sold
from tests.examples.service import Service, ask, json_reply, listening


@pytest.fixture
async def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    mcp.engine = tmp_path / "shop.db"
    answers = {("GET", "/shelves/{sku}"): json_reply({"count": 2}), ("POST", "/parcels"): json_reply({"parcel": "P1"})}
    async with listening(Service(answers)) as service:
        monkeypatch.setenv("WAREHOUSE_URL", service.url)
        yield service


async def stock(client: Client) -> dict[str, int]:
    (content,) = (await client.read_resource("shop://items")).contents
    return json.loads(getattr(content, "text", ""))


async def test_what_is_bought_leaves_the_stock_once(warehouse: Service) -> None:
    warehouse.after["parcels"] = [500]  # it is sent, and nobody is told: sent again under the same key
    async with Client(mcp) as client:
        await ask(client, "take_stock", sku="tea")
        assert await ask(client, "buy", sku="tea") == "Parcel P1 is on its way; 1 left."
        assert await stock(client) == {"tea": 1}
    assert len(warehouse.keys) == 2
    assert len(set(warehouse.keys)) == 1


async def test_of_five_who_buy_at_once_two_get_the_last_two(warehouse: Service) -> None:
    async with Client(mcp) as client:
        await ask(client, "take_stock", sku="tea")
        answers = await asyncio.gather(*(ask(client, "buy", sku="tea") for _ in range(5)))
        assert sum("sold out" in answer for answer in answers) == 3
        assert await stock(client) == {"tea": 0}
        assert await sold.get("tea") == 2
    assert len(set(warehouse.keys)) == 2


async def test_what_cannot_be_shipped_is_put_back(warehouse: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Client(mcp) as client:
        await ask(client, "take_stock", sku="tea")
        warehouse.before["parcels"] = [400] * 5
        assert "cannot be shipped" in await ask(client, "buy", sku="tea")
        assert await stock(client) == {"tea": 2}


async def test_steps_have_many_shapes(warehouse: Service) -> None:
    async with Client(mcp) as client:
        result = await client.call_tool("add", {"a": 2, "b": 3})
    assert result.structured_content == {"result": [5, 5, 5]}
