"""A stand-in for Open-Meteo's archive: the parts of its API that the climate server uses.

python -m perdure.servers.standins.climate [--port N] [--fault /v1/archive=503,slow:0.5 …] [--seed N]
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import httpx

from perdure.servers.standins.faults import Fault, Schedule
from perdure.servers.standins.program import run_standin
from perdure.servers.standins.standin import Reply, Request, Standin

UNITS = {"temperature_2m_max": "°C", "temperature_2m_min": "°C", "precipitation_sum": "mm"}
ZONES = {
    "UTC": "UTC",
    "GMT": "GMT",
    "auto": "Europe/Berlin",
    "Europe/Berlin": "Europe/Berlin",
    "Asia/Tokyo": "Asia/Tokyo",
}


class Archive:
    """`missing_from` is the first day that it does not have yet, and can be moved."""

    def __init__(self, missing_from: date = date.max) -> None:
        self.missing_from = missing_from

    def answer(self, asked: Request, _url: str) -> Reply:
        url = httpx.URL(asked.path)
        if url.path != "/v1/archive":
            return _refusal(404, "Not Found")
        try:
            return self._weather(url.params)
        except (KeyError, ValueError) as wrong:
            return _refusal(400, str(wrong))

    def _weather(self, asked: httpx.QueryParams) -> Reply:
        latitude, longitude = float(asked["latitude"]), float(asked["longitude"])
        first, last = date.fromisoformat(asked["start_date"]), date.fromisoformat(asked["end_date"])
        if (zone := ZONES.get(asked["timezone"])) is None:
            raise ValueError("Invalid timezone")
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        variables = asked["daily"].split(",")
        return Reply(
            {
                # As the real one does, it answers for the nearest point of its grid.
                "latitude": round(latitude * 4) / 4,
                "longitude": round(longitude * 4) / 4,
                "elevation": 38.0,
                "generationtime_ms": 0.5,
                "utc_offset_seconds": 0,
                "timezone": zone,
                "timezone_abbreviation": zone,
                "daily_units": {"time": "iso8601", **{name: UNITS[name] for name in variables}},
                "daily": {
                    "time": [day.isoformat() for day in days],
                    **{name: [self._value(name, day) for day in days] for name in variables},
                },
            }
        )

    def _value(self, variable: str, day: date) -> float | None:
        if day >= self.missing_from:
            return None
        match variable:
            case "temperature_2m_max":
                return 8.5 + day.day / 10
            case "temperature_2m_min":
                return 1.5 + day.day / 10
            case _:
                return float(day.day % 3)


def _refusal(status: int, reason: str) -> Reply:
    return Reply({"error": True, "reason": reason}, status)


def climate_standin(
    faults: Iterable[tuple[str, Iterable[Fault | None]]] = (), archive: Archive | None = None
) -> Standin:
    return Standin((archive or Archive()).answer, Schedule(faults))


if __name__ == "__main__":
    run_standin("A stand-in for Open-Meteo's archive of past weather, on 127.0.0.1.", climate_standin)
