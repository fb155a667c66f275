"""A stand-in for the National Weather Service: the parts of its API that the weather server uses.

python -m perdure.servers.standins.weather [--port N] [--fault /points=503,slow:0.5 …] [--seed N]
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from perdure.servers.standins.faults import Fault, Schedule
from perdure.servers.standins.program import run_standin
from perdure.servers.standins.standin import Reply, Request, Standin

GEOJSON = "application/geo+json"
PROBLEM = "application/problem+json"

ALERTS = {
    "CA": [
        {
            "event": "Heat Advisory",
            "areaDesc": "San Joaquin Valley; Kern County Desert",
            "severity": "Moderate",
            "description": "Temperatures up to 106 expected.",
            "instruction": "Drink plenty of fluids and stay out of the sun.",
        },
        {
            "event": "Dense Fog Advisory",
            "areaDesc": "San Francisco Bay Shoreline",
            "severity": "Minor",
            "description": "Visibility a quarter mile or less.",
            "instruction": None,
        },
    ]
}

PERIODS = [
    ("Tonight", 41, "5 mph", "NW", "Clear, with a low around 41."),
    ("Thursday", 63, "5 to 10 mph", "SW", "Sunny, with a high near 63."),
    ("Thursday Night", 44, "5 to 10 mph", "S", "Mostly clear, with a low around 44."),
    ("Friday", 68, "10 to 15 mph", "S", "Partly sunny, with a high near 68."),
    ("Friday Night", 50, "10 mph", "S", "A chance of showers after midnight, with a low around 50."),
    ("Saturday", 58, "10 to 20 mph", "NW", "Showers likely, with a high near 58."),
    ("Saturday Night", 36, "5 to 10 mph", "N", "Partly cloudy, with a low around 36."),
]


def weather_standin(faults: Iterable[tuple[str, Iterable[Fault | None]]] = ()) -> Standin:
    return Standin(answer, Schedule(faults))


def answer(asked: Request, url: str) -> Reply:
    """What the service says; `url` is where it is, for its links."""
    if "perdure" not in asked.headers.get("user-agent", "") or asked.headers.get("accept") != GEOJSON:
        return _problem(403, "Say who you are (User-Agent), and ask for application/geo+json.")
    match asked.path.strip("/").split("/"):
        case ["points", place]:
            return _point(place, url)
        case ["gridpoints", _, _, "forecast"]:
            return _geojson({"properties": {"periods": [_period(*period) for period in PERIODS]}})
        case ["alerts", "active", "area", state]:
            return _geojson({"features": [{"properties": alert} for alert in ALERTS.get(state, [])]})
        case _:
            return _problem(404, "Not Found")


def _point(place: str, url: str) -> Reply:
    latitude, longitude = map(float, place.split(","))
    if not (17 < latitude < 72 and -180 < longitude < -64):
        return _problem(404, f"Unable to provide data for requested point {place}")
    if re.search(r"\.\d*0(,|$)", place):  # the real one insists, too
        wanted = ",".join(str(float(degrees)).removesuffix(".0") for degrees in place.split(","))
        return Reply({}, 301, (("Location", f"{url}/points/{wanted}"),))
    return _geojson({"properties": {"forecast": f"{url}/gridpoints/TOP/32,81/forecast"}})


def _period(name: str, temperature: int, wind: str, direction: str, forecast: str) -> dict[str, object]:
    return {
        "name": name,
        "temperature": temperature,
        "temperatureUnit": "F",
        "windSpeed": wind,
        "windDirection": direction,
        "detailedForecast": forecast,
    }


def _geojson(content: object) -> Reply:
    return Reply(content, media_type=GEOJSON)


def _problem(status: int, detail: str) -> Reply:
    return Reply({"status": status, "detail": detail}, status, media_type=PROBLEM)


if __name__ == "__main__":
    run_standin("A stand-in for the National Weather Service, on 127.0.0.1.", weather_standin)
