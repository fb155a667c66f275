from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.climate import mcp
from tests.examples.service import Service, ask, listening

JANUARY, LEAP_FEBRUARY = "month-52.5-13.4-2024-1", "month-52.5-13.4-2024-2"


async def month(request: Request) -> Response:
    return JSONResponse({"to": request.query_params["end_date"]})


@pytest.fixture
async def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    mcp.engine = tmp_path / "climate.db"
    async with listening(Service({("GET", "/v1/archive"): month})) as service:
        monkeypatch.setenv("CLIMATE_URL", service.url)
        yield service


async def gather(client: Client, *months: int) -> list[str]:
    result = await client.call_tool(
        "gather_months", {"latitude": 52.5, "longitude": 13.4, "year": 2024, "months": months}
    )
    assert result.structured_content is not None
    return result.structured_content["result"]


async def test_months_are_gathered_by_jobs_and_awaited_by_their_names(archive: Service) -> None:
    archive.before["v1"] = [503]
    async with Client(mcp) as client:
        jobs = await gather(client, 1, 2)
        assert jobs == [JANUARY, LEAP_FEBRUARY]
        months = json.loads(await ask(client, "await_months", jobs=jobs))
        assert months == {JANUARY: {"to": "2024-01-31"}, LEAP_FEBRUARY: {"to": "2024-02-29"}}
        assert json.loads(await ask(client, "look_at", jobs=jobs)) == dict.fromkeys(jobs, "completed")
    assert archive.done == {"GET v1": 2}


async def test_a_month_is_gathered_once_whoever_begins_it(archive: Service) -> None:
    for _ in range(2):  # two lives of the server
        async with Client(mcp) as client:
            await ask(client, "await_months", jobs=await gather(client, 1))
            await ask(client, "await_months", jobs=await gather(client, 1, 1))
    assert archive.done == {"GET v1": 1}


async def test_a_job_that_nobody_began_is_not_found(archive: Service) -> None:
    async with Client(mcp) as client:
        assert "No job is called 'x'" in await ask(client, "look_at", jobs=["x"])
