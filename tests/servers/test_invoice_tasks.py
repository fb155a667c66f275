"""An invoice as a task, for clients that can hold one: its id is the `call_id` of all other tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
from mcp import Client

from perdure.servers.invoice import mcp
from perdure.testing import Trial, trial
from tests.protocol import tasking, test_legacy_tasks
from tests.servers.invoice_services import Services, invoice, services
from tests.servers.processes import Refusal, ask

LARGE = invoice(("hosting", "250.00"), ("pens", "9.90"))


@pytest.fixture
async def work(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[tuple[Services, Trial]]:
    async with services(monkeypatch) as found, trial(mcp) as t:
        yield found, t


async def test_a_task_of_the_extension_is_the_invoice(work: tuple[Services, Trial]) -> None:
    found, t = work
    async with Client(mcp, extensions=[tasking.Holding()]) as client:
        task = await tasking.create(client, "process_invoice", **LARGE)
        await t.advance(timedelta(days=4))
        waiting = await tasking.get_task(client.session, task)
        assert (waiting.status, waiting.status_message) == ("working", "PENDING-APPROVAL")

        await ask(client, "approve_invoice", call_id=task)
        await t.settle()
        ended = await tasking.get_task(client.session, task)
        assert ended.status == "completed"
        assert ended.result is not None
        assert ended.result["structuredContent"] == await ask(client, "invoice_status", call_id=task)
    assert found.paid == ["hosting", "pens"]


async def test_a_task_of_2025_is_the_invoice(work: tuple[Services, Trial]) -> None:
    _, t = work
    async with Client(mcp, mode="legacy") as client:
        task = await test_legacy_tasks.create(client, "process_invoice", **LARGE)
        await t.advance(timedelta(days=5))
        ended = await test_legacy_tasks.result(client, task)
        assert ended.structured_content is not None
        assert (ended.structured_content["call_id"], ended.structured_content["state"]) == (task, "EXPIRED")


async def test_clients_with_tasks_and_without_have_the_same_call(work: tuple[Services, Trial]) -> None:
    found, t = work
    without = await ask(t.client, "process_invoice", **LARGE)
    async with Client(mcp, extensions=[tasking.Holding()]) as client:
        assert await tasking.create(client, "process_invoice", **LARGE) == without["call_id"]
    assert (await ask(t.client, "process_invoice", **LARGE))["call_id"] == without["call_id"]
    assert found.validations == 1


async def test_a_task_whose_client_lets_go_of_it_is_not_paid(work: tuple[Services, Trial]) -> None:
    found, t = work
    async with Client(mcp, extensions=[tasking.Holding()]) as client:
        task = await tasking.create(client, "process_invoice", **LARGE)
        await t.settle()
        await tasking.cancel_task(client.session, task)
        await t.settle()
        assert (await ask(client, "invoice_status", call_id=task))["state"] == "CANCELLED"
        with pytest.raises(Refusal, match="it is CANCELLED"):
            await ask(client, "approve_invoice", call_id=task)
    assert found.paid == []


async def test_who_sent_an_invoice_gives_it_up_by_its_handle(work: tuple[Services, Trial]) -> None:
    found, t = work
    handle = await ask(t.client, "process_invoice", **LARGE)
    await t.settle()
    await t.client.call_tool("cancel_call", {"call_id": handle["call_id"]})
    await t.settle()
    assert (await ask(t.client, "invoice_status", call_id=handle["call_id"]))["state"] == "CANCELLED"
    assert found.paid == []
