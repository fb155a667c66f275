"""Weather of the past, month by month: jobs that are started, looked at by their keys, and waited for."""

from __future__ import annotations

import calendar
import os
from datetime import timedelta
from typing import Any

import httpx
from mcp_types import ToolAnnotations

from perdure import CallView, DurableMCP, Retry, ToolError

mcp = DurableMCP("climate")

READS = ToolAnnotations(read_only_hint=True)
STARTS = ToolAnnotations(idempotent_hint=True)


@mcp.job(
    key="month-{latitude}-{longitude}-{year}-{month}",
    shared=True,
    reuse=timedelta(days=30),  # the past does not change
    rerun=True,  # it only reads, so a crash may run it again
    retry=Retry(attempts=10),
)
async def month_of(latitude: float, longitude: float, year: int, month: int) -> dict[str, Any]:
    last = calendar.monthrange(year, month)[1]
    asked = {
        "latitude": latitude,
        "longitude": longitude,
        "start_date": f"{year}-{month:02}-01",
        "end_date": f"{year}-{month:02}-{last}",
    }
    async with httpx.AsyncClient(timeout=60) as http:
        service = os.environ.get("CLIMATE_URL", "https://archive-api.open-meteo.com")
        return (await http.get(f"{service}/v1/archive", params=asked)).raise_for_status().json()


@mcp.tool(annotations=STARTS)
async def gather_months(latitude: float, longitude: float, year: int, months: list[int]) -> list[str]:
    """Begin to gather some months; returns the names of the jobs."""
    calls = [await month_of.start(latitude, longitude, year, month) for month in months]
    return [(await mcp.calls.get(call.id)).key or "" for call in calls]


@mcp.tool(annotations=READS)
async def look_at(jobs: list[str]) -> dict[str, str]:
    """How far some jobs are."""
    return {name: (await found(name)).status for name in jobs}


@mcp.tool(annotations=READS)
async def await_months(jobs: list[str]) -> dict[str, Any]:
    """The months that some jobs gather, when all are there."""
    return {name: await mcp.calls.result((await found(name)).id) for name in jobs}


async def found(name: str) -> CallView:
    view = await mcp.calls.lookup("month_of", name)
    if view is None:
        raise ToolError(f"No job is called {name!r}.")
    return view


if __name__ == "__main__":
    mcp.run()
