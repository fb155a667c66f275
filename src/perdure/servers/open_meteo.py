"""Open-Meteo's archive of past weather: where it is, how it is asked, what it answers, what its refusals mean.

https://open-meteo.com/en/docs/historical-weather-api
"""

from __future__ import annotations

import os
from datetime import date, timedelta
from importlib.metadata import version
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from perdure import ToolError, TryAgain
from perdure.servers.replies import overloaded

SERVICE = "https://archive-api.open-meteo.com"
SETTING = "PERDURE_CLIMATE_URL"

FIRST_YEAR = 1940
LATE = timedelta(days=10)
"""The newest days are missing for a while; the documentation says five days, two for some models."""


class Days(BaseModel):
    """One entry per day in each list; None where the archive has no value."""

    time: list[date]
    temperature_2m_max: list[float | None]
    temperature_2m_min: list[float | None]
    precipitation_sum: list[float | None]

    @property
    def are_complete(self) -> bool:
        return not any(
            None in values for values in (self.temperature_2m_max, self.temperature_2m_min, self.precipitation_sum)
        )


DAILY = ("temperature_2m_max", "temperature_2m_min", "precipitation_sum")


class Weather(BaseModel):
    """What `/v1/archive` says of some days at a place: the place is the nearest that it has, the days are local."""

    latitude: float
    longitude: float
    elevation: float | None = None
    timezone: str
    daily_units: dict[str, str]
    daily: Days


def open_client(_server: object = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={"User-Agent": f"perdure-climate/{version('perdure')}"},
        timeout=None,  # the time-out of the step counts
    )


async def weather_between(
    http: httpx.AsyncClient, latitude: float, longitude: float, first: date, last: date, timezone: str
) -> Weather:
    """Ask once. `ToolError`: asking again is useless; any other error: it is not."""
    asked = {
        "latitude": latitude,
        "longitude": longitude,
        "start_date": first.isoformat(),
        "end_date": last.isoformat(),
        "daily": ",".join(DAILY),
        "timezone": timezone,
    }
    reply = await http.get(f"{address()}/v1/archive", params=asked)
    if busy := overloaded("The archive", reply):
        raise busy
    try:
        content: Any = reply.json()
    except ValueError:  # a maintenance page, half an answer
        raise TryAgain("The archive answered with something else than JSON.") from None
    if not reply.is_success:
        raise ToolError(f"The archive refused the request ({reply.status_code}). {_reason(content)}".rstrip())
    try:
        return Weather.model_validate(content)
    except ValidationError as unexpected:
        problem = unexpected.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ToolError(f"The archive answered in a new form: {where}: {problem['msg']}") from unexpected


def address() -> str:
    """Where the archive is now. Steps read it and record nothing of it, so that moving it strands no call."""
    return (os.environ.get(SETTING) or SERVICE).rstrip("/")


def _reason(content: Any) -> str:
    try:
        return str(content["reason"])[:500]
    except (KeyError, TypeError):
        return ""
