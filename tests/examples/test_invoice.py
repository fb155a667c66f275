from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.invoice import mcp
from tests.examples.service import Service, ask, json_reply, listening


@pytest.fixture
async def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    mcp.engine = tmp_path / "invoice.db"
    payments: dict[str, str] = {}

    async def pay(request: Request) -> Response:
        line = await request.json()
        if line["description"] == "a yacht":
            return JSONResponse({}, 402)
        # Paying twice under one key would be seen: it is another payment here.
        payments[request.path_params["key"]] = f"{line['description']} {len(payments) + 1}"
        return JSONResponse({"payment": payments[request.path_params["key"]]})

    async def look(request: Request) -> Response:
        payment = payments.get(request.path_params["key"])
        return JSONResponse({"payment": payment}, 404 if payment is None else 200)

    answers = {
        ("GET", "/customers/{customer}"): json_reply({}),
        ("GET", "/payments/{key}"): look,
        ("PUT", "/payments/{key}"): pay,
    }
    async with listening(Service(answers)) as service:
        monkeypatch.setenv("BANK_URL", service.url)
        yield service


def invoice(**lines: str) -> dict[str, Any]:
    due = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    parts = [{"description": name.replace("_", " "), "amount": amount, "due": due} for name, amount in lines.items()]
    return {"number": "7", "customer": "ann", "lines": parts}


async def until_it_waits() -> None:
    async with asyncio.timeout(20):
        while (call := await mcp.calls.lookup("process_invoice", "invoice-7")) is None:
            await asyncio.sleep(0.01)
        async for view in mcp.calls.watch(call.id):
            if view.text == "waits for approval":
                return


async def test_a_small_invoice_is_paid_at_once(bank: Service) -> None:
    async with Client(mcp) as client:
        paid = json.loads(await ask(client, "process_invoice", invoice=invoice(pens="9.90")))
    assert paid == {"state": "paid", "paid": ["pens 1"], "unpaid": []}


async def test_what_was_paid_is_found_when_the_banks_answer_is_lost(bank: Service) -> None:
    bank.before["customers"] = [503]
    bank.before["payments"] = [503]  # not paid; the look that follows finds nothing
    bank.after["payments"] = [0, 500]  # paid, and nobody is told; the look that follows finds it
    async with Client(mcp) as client:
        paid = json.loads(await ask(client, "process_invoice", invoice=invoice(pens="9.90")))
    assert paid["paid"] == ["pens 1"]
    assert bank.done["PUT payments"] == 1


async def test_a_decision_is_awaited_through_a_restart_and_counts_once(bank: Service) -> None:
    asked = {"invoice": invoice(hosting="250.00", pens="9.90")}
    async with mcp.serving():
        await mcp.calls.start("process_invoice", asked)
        await until_it_waits()
    async with mcp.serving(), Client(mcp) as client:
        assert await ask(client, "decide", number="7", approved=True) == "Invoice 7 is approved."
        paid = json.loads(await ask(client, "process_invoice", **asked))
        assert (paid["state"], len(paid["paid"])) == ("paid", 2)
        assert "Too late: this invoice is paid." in await ask(client, "decide", number="7", approved=False)
    assert (bank.done["GET customers"], bank.done["PUT payments"]) == (1, 2)


async def test_a_rejected_invoice_is_not_paid(bank: Service) -> None:
    async with Client(mcp) as client:
        asking = asyncio.create_task(ask(client, "process_invoice", invoice=invoice(hosting="250.00")))
        await until_it_waits()
        await ask(client, "decide", number="7", approved=False)
        assert json.loads(await asking)["state"] == "rejected"
    assert bank.asked["PUT payments"] == 0


async def test_a_line_that_cannot_be_paid_is_told_and_the_others_are_paid(bank: Service) -> None:
    async with Client(mcp) as client:
        ended = json.loads(await ask(client, "process_invoice", invoice=invoice(pens="9.90", a_yacht="80.00")))
    assert ended == {"state": "failed", "paid": ["pens 1"], "unpaid": ["a yacht: not enough money"]}
