"""Who may decide: where the server knows who asks, those with the scope, whoever sent the invoice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.requests import HTTPConnection

from perdure import Principal
from perdure.servers.invoice import SCOPE, invoice_server
from tests.protocol.mounted import client_as, mounted
from tests.protocol.wired import MODE
from tests.servers.invoice_services import Services, invoice, services
from tests.servers.processes import Refusal, ask, running, until

LARGE = invoice(("hosting", "250.00"), ("domain", "9.90", "2999-01-01T00:00:00Z"))
ANN, BO = "ann", f"bo+{SCOPE}"
ACTS: list[tuple[str, dict[str, Any], str]] = [
    ("approve_invoice", {}, "Approving"),
    ("reject_invoice", {}, "Rejecting"),
    ("force_payment", {"line": 2}, "Forcing a payment"),
]


@asynccontextmanager
async def client_with(address: str, token: str, era: str) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(address, http_client=http), mode=MODE[era]) as client,
    ):
        yield client


@pytest.fixture
async def found(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Services]:
    async with services(monkeypatch) as found:
        yield found


async def state(client: Client, call_id: str) -> str:
    return (await ask(client, "invoice_status", call_id=call_id))["state"]


async def until_state(client: Client, call_id: str, wanted: str) -> None:
    async def reached() -> bool:
        return await state(client, call_id) == wanted

    await until(reached)


@pytest.mark.slow
@pytest.mark.parametrize("era", MODE)
async def test_with_tokens_deciding_needs_the_scope_whoever_sent_the_invoice(
    era: str, found: Services, tmp_path: Path
) -> None:
    server = str(Path(__file__).with_name("invoice_with_tokens.py"))
    async with (
        running(server, tmp_path / "invoice.db", found.settings) as running_server,
        client_with(running_server.address, ANN, era) as ann,
        client_with(running_server.address, BO, era) as bo,
        client_with(running_server.address, "eve", era) as eve,
    ):
        call_id = (await ask(ann, "process_invoice", **LARGE))["call_id"]
        await until_state(ann, call_id, "PENDING-APPROVAL")
        for who in ann, eve:
            for tool, more, what in ACTS:
                with pytest.raises(Refusal, match=f"{what} needs the scope {SCOPE}"):
                    await ask(who, tool, call_id=call_id, **more)
        with pytest.raises(Refusal, match=f"There is no invoice {call_id}"):
            await ask(eve, "invoice_status", call_id=call_id)
        assert await state(bo, call_id) == "PENDING-APPROVAL"

        await ask(bo, "approve_invoice", call_id=call_id)
        await until_state(bo, call_id, "PAYING")
        with pytest.raises(Refusal, match="needs the scope"):
            await ask(ann, "force_payment", call_id=call_id, line=2)
        await ask(bo, "force_payment", call_id=call_id, line=2)
        await until_state(ann, call_id, "PAID")
        assert (await ask(ann, "invoice_status", call_id=call_id))["decision"]["by"] == "bo"
    assert found.paid == ["domain", "hosting"]


@pytest.mark.slow
async def test_the_scope_suffices_for_ones_own_invoice(found: Services, tmp_path: Path) -> None:
    server = str(Path(__file__).with_name("invoice_with_tokens.py"))
    async with (
        running(server, tmp_path / "invoice.db", found.settings) as running_server,
        client_with(running_server.address, BO, "stateless") as bo,
    ):
        call_id = (await ask(bo, "process_invoice", **LARGE))["call_id"]
        await ask(bo, "reject_invoice", call_id=call_id)
        await until_state(bo, call_id, "REJECTED")


@pytest.mark.parametrize("era", MODE)
async def test_where_an_application_says_who_asks_the_anonymous_may_not_decide(
    era: str, found: Services, tmp_path: Path
) -> None:
    def by_header(connection: HTTPConnection) -> Principal | None:
        name = connection.headers.get("x-user")
        return None if name is None else Principal(name, scopes=frozenset({SCOPE} if name == "bo" else ()))

    mcp = invoice_server(principal=by_header, engine=tmp_path / "invoice.db")
    async with mounted(mcp) as url, client_as(url, MODE[era]) as nobody, client_as(url, MODE[era], "bo") as bo:
        call_id = (await ask(nobody, "process_invoice", **LARGE))["call_id"]
        for tool, more, what in ACTS:
            with pytest.raises(Refusal, match=f"{what} needs the scope"):
                await ask(nobody, tool, call_id=call_id, **more)
        await ask(bo, "reject_invoice", call_id=call_id)
        await until_state(bo, call_id, "REJECTED")


@pytest.mark.parametrize("era", MODE)
async def test_where_nobody_is_known_whoever_has_the_id_decides(era: str, found: Services, tmp_path: Path) -> None:
    mcp = invoice_server(engine=tmp_path / "invoice.db")
    async with mounted(mcp) as url, client_as(url, MODE[era]) as one, client_as(url, MODE[era]) as other:
        call_id = (await ask(one, "process_invoice", **LARGE))["call_id"]
        await until_state(other, call_id, "PENDING-APPROVAL")
        await ask(other, "approve_invoice", call_id=call_id)
        await until_state(other, call_id, "PAYING")
        await ask(other, "force_payment", call_id=call_id, line=2)
        await until_state(one, call_id, "PAID")
    assert found.paid == ["domain", "hosting"]


async def test_who_sends_the_same_invoice_gets_the_same_call(found: Services, tmp_path: Path) -> None:
    def by_header(connection: HTTPConnection) -> Principal | None:
        return Principal(connection.headers.get("x-user", "nobody"))

    mcp = invoice_server(principal=by_header, engine=tmp_path / "invoice.db")
    async with mounted(mcp) as url, client_as(url, "auto", "ann") as ann, client_as(url, "auto", "cy") as cy:
        call_id = (await ask(ann, "process_invoice", **LARGE))["call_id"]
        with pytest.raises(Refusal, match="There is no invoice"):
            await ask(cy, "invoice_status", call_id=call_id)
        assert (await ask(cy, "process_invoice", **LARGE))["call_id"] == call_id
        assert (await ask(cy, "invoice_status", call_id=call_id))["customer"] == "ann"
    assert found.validations == 1
