"""An invoice through several lives of its server: real processes, real HTTP, real SIGKILLs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from perdure.servers.standins.faults import Fault, Refuse, Slow
from tests.protocol.wired import MODE
from tests.servers.invoice_services import Services, invoice, services
from tests.servers.processes import Refusal, ask, ask_at, running, until

pytestmark = pytest.mark.slow

LARGE = invoice(("hosting", "250.00"), ("pens", "9.90"))
FAR = invoice(("hosting", "250.00"), ("domain", "9.90", "2999-01-01T00:00:00Z"))


async def state(address: str, call_id: str) -> str:
    return (await ask_at(address, "invoice_status", call_id=call_id))["state"]


def reaches(wanted: str) -> Callable[[Services, str, str], Awaitable[bool]]:
    async def reached(_: Services, address: str, call_id: str) -> bool:
        return await state(address, call_id) == wanted

    return reached


async def validation_is_asked(found: Services, _address: str, _call_id: str) -> bool:
    return found.validations > 0


async def payment_is_asked(found: Services, _address: str, _call_id: str) -> bool:
    return found.payments_asked > 0


async def one_line_is_paid(_: Services, address: str, call_id: str) -> bool:
    lines = (await ask_at(address, "invoice_status", call_id=call_id))["lines"]
    return any(line["state"] == "PAID" for line in lines)


@dataclass(frozen=True)
class Place:
    """Where the server is killed: when `reached`."""

    what: str
    reached: Callable[[Services, str, str], Awaitable[bool]]
    approved: bool
    """Whether it was approved before that."""
    erp: Iterable[Fault | None] = ()
    payments: Iterable[Fault | None] = ()


PLACES = [
    Place("while the ERP is asked", validation_is_asked, False, erp=[Slow(60)]),
    Place("while the ERP is asked, approved already", validation_is_asked, True, erp=[Slow(60)]),
    Place("between two attempts of the validation", validation_is_asked, True, erp=[Refuse(503, "2")]),
    Place("while a person is waited for", reaches("PENDING-APPROVAL"), False),
    Place("while it is paid, of which nobody is told", payment_is_asked, True, payments=[Slow(60), Slow(60)]),
    Place("between two attempts of a payment", payment_is_asked, True, payments=[Refuse(503, "2"), Refuse(503, "2")]),
    Place("when one line is paid and one is on its way", one_line_is_paid, True, payments=[None, Slow(60)]),
    Place("after its end", reaches("PAID"), True),
]


@pytest.mark.parametrize("place", PLACES, ids=[place.what for place in PLACES])
async def test_a_killed_server_goes_on_with_the_invoice_and_pays_each_line_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "invoice.db"
    async with services(monkeypatch, erp=place.erp, payments=place.payments) as found:
        async with running("invoice", file, found.settings) as server:
            call_id = (await ask_at(server.address, "process_invoice", **LARGE))["call_id"]
            if place.approved:
                await ask_at(server.address, "approve_invoice", call_id=call_id)
            await until(lambda: place.reached(found, server.address, call_id))
            await server.kill()
        validations = found.validations

        async with running("invoice", file, found.settings) as server:
            if not place.approved:
                await ask_at(server.address, "approve_invoice", call_id=call_id)
            await until(lambda: reaches("PAID")(found, server.address, call_id))
            assert (await ask_at(server.address, "process_invoice", **LARGE))["call_id"] == call_id

    assert found.paid == ["hosting", "pens"]
    assert len(set(found.keys)) == 2
    assert found.validations == (validations if place.erp == () else validations + 1)


@pytest.mark.parametrize("era", MODE)
async def test_every_client_has_the_call_at_once(era: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        services(monkeypatch, erp=[Slow(60)]) as found,
        running("invoice", tmp_path / "invoice.db", found.settings) as server,
        asyncio.timeout(20),
        Client(server.address, mode=MODE[era]) as client,
    ):
        call_id = (await ask(client, "process_invoice", **LARGE))["call_id"]
        assert (await ask(client, "invoice_status", call_id=call_id))["state"] == "PENDING-VALIDATION"


async def test_over_stdio_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with services(monkeypatch) as found:
        command = ["-m", "perdure.cli", "run", "invoice", "--engine", str(tmp_path / "invoice.db")]
        server = StdioServerParameters(command=sys.executable, args=command, env={**os.environ, **found.settings})
        async with asyncio.timeout(60), Client(server) as client:
            call_id = (await ask(client, "process_invoice", **LARGE))["call_id"]
            await ask(client, "approve_invoice", call_id=call_id)
            await until(lambda: _is_paid(client, call_id))
    assert found.paid == ["hosting", "pens"]


async def _is_paid(client: Client, call_id: str) -> bool:
    return (await ask(client, "invoice_status", call_id=call_id))["state"] == "PAID"


async def test_a_decision_is_told_the_same_by_the_server_that_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "invoice.db"
    async with services(monkeypatch) as found:
        async with running("invoice", file, found.settings) as server:
            call_id = (await ask_at(server.address, "process_invoice", **FAR))["call_id"]
            await ask_at(server.address, "approve_invoice", call_id=call_id, note="fine")
            await server.kill()
        async with running("invoice", file, found.settings) as server:
            with pytest.raises(Refusal, match="has been approved already; it is PAYING"):
                await ask_at(server.address, "reject_invoice", call_id=call_id)
            await until(lambda: reaches("PAYING")(found, server.address, call_id))
            await ask_at(server.address, "force_payment", call_id=call_id, line=2)
            await until(lambda: reaches("PAID")(found, server.address, call_id))
            status = await ask_at(server.address, "invoice_status", call_id=call_id)
    assert status["decision"]["note"] == "fine"
    assert found.paid == ["domain", "hosting"]


# --- the command line -----------------------------------------------------------------------------


async def perdure(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "perdure.cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_an_invoice_is_approved_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "invoice.db"
    verdict = json.dumps({"approved": True, "note": "by phone", "by": "bo"})
    async with services(monkeypatch) as found, running("invoice", file, found.settings) as server:
        call_id = (await ask_at(server.address, "process_invoice", **LARGE))["call_id"]
        await until(lambda: reaches("PENDING-APPROVAL")(found, server.address, call_id))

        code, said = await perdure("signal", call_id, "decision", '{"note": "?"}', "--engine", str(file))
        assert code != 0, said
        code, said = await perdure("signal", call_id, "decision", verdict, "--engine", str(file))
        assert code == 0, said
        await until(lambda: reaches("PAID")(found, server.address, call_id))
        status = await ask_at(server.address, "invoice_status", call_id=call_id)
        code, said = await perdure("signal", call_id, "decision", verdict, "--engine", str(file))

    assert (status["decision"]["by"], status["decision"]["note"]) == ("bo", "by phone")
    assert code != 0
    assert "has ended" in said
    assert found.paid == ["hosting", "pens"]


async def test_a_decision_sent_while_nobody_serves_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "invoice.db"
    async with services(monkeypatch) as found:
        async with running("invoice", file, found.settings) as server:
            call_id = (await ask_at(server.address, "process_invoice", **LARGE))["call_id"]
            await server.kill()
        code, said = await perdure("signal", call_id, "decision", '{"approved": false}', "--engine", str(file))
        assert code == 0, said
        async with running("invoice", file, found.settings) as server:
            await until(lambda: reaches("REJECTED")(found, server.address, call_id))
    assert found.paid == []
