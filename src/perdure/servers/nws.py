"""The National Weather Service API: where it is, how it wants to be asked, what it answers, what its refusals mean.

https://www.weather.gov/documentation/services-web-api and https://api.weather.gov/openapi.json
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any, TypeVar

import httpx
from pydantic import AliasPath, BaseModel, Field, ValidationError

from perdure import ToolError, TryAgain
from perdure.servers.replies import overloaded

SERVICE = "https://api.weather.gov"
SETTING = "PERDURE_WEATHER_URL"

# The specification's StateTerritoryCode.
_CODES = (
    "AL AK AZ AR CA CO CT DE DC FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND "
    "OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY AS GU MP PR VI FM MH PW"
)
STATES = frozenset(_CODES.split())


# --- what it answers ------------------------------------------------------------------------------


class Point(BaseModel):
    """`/points/{latitude},{longitude}`: which forecast covers a place."""

    forecast: str = Field(validation_alias=AliasPath("properties", "forecast"))


class Period(BaseModel):
    """About twelve hours of a forecast."""

    name: str
    temperature: int | float | None
    temperatureUnit: str
    windSpeed: str | None
    windDirection: str | None
    detailedForecast: str


class Forecast(BaseModel):
    periods: list[Period] = Field(validation_alias=AliasPath("properties", "periods"))


class Alert(BaseModel):
    event: str
    areaDesc: str
    severity: str
    description: str | None = None
    instruction: str | None = None


class Feature(BaseModel):
    properties: Alert


class Alerts(BaseModel):
    """`/alerts/active/area/{state}`."""

    features: list[Feature]


Answer = TypeVar("Answer", bound=BaseModel)


# --- asking ---------------------------------------------------------------------------------------


def open_client(_server: object = None) -> httpx.AsyncClient:
    """A client as the service wants it: it says who it is, and asks for GeoJSON (which is the documented default)."""
    return httpx.AsyncClient(
        headers={"User-Agent": f"perdure-weather/{version('perdure')}", "Accept": "application/geo+json"},
        timeout=None,  # the time-out of the step counts
        follow_redirects=True,
        event_hooks={"request": [_stay_with_the_service]},
    )


async def get(http: httpx.AsyncClient, path: str, answer: type[Answer]) -> Answer:
    """Ask once. `ToolError`: asking again is useless; any other error: it is not."""
    reply = await http.get(str(address()).rstrip("/") + path)
    if refused := refusal(reply):
        raise refused
    try:
        content: Any = reply.json()
    except ValueError:  # a maintenance page, half an answer
        raise TryAgain("The weather service answered with something else than JSON.") from None
    try:
        return answer.model_validate(content)
    except ValidationError as unexpected:
        raise ToolError(
            f"The weather service answered {path} in a new form: {_first_problem(unexpected)}"
        ) from unexpected


def refusal(reply: httpx.Response) -> ToolError | TryAgain | None:
    """What a reply's status means; None if it is an answer."""
    if busy := overloaded("The weather service", reply):
        return busy
    match reply.status_code:
        case status if 200 <= status < 300:
            return None
        case 404:
            return ToolError("The weather service does not know this place. It covers the United States.")
        case status:
            return ToolError(f"The weather service refused the request ({status}). {_detail(reply)}".rstrip())


# --- where it is ----------------------------------------------------------------------------------


def address() -> httpx.URL:
    """Where the service is now. Steps read it and record nothing of it, so that moving the service strands no call."""
    return httpx.URL(os.environ.get(SETTING) or SERVICE)


def own_path(link: str) -> str:
    """A link of the service without its address. One that leads elsewhere is not followed."""
    url = httpx.URL(link)
    _require_own(url)
    return url.raw_path.decode()[len(address().path.rstrip("/")) :]


async def _stay_with_the_service(request: httpx.Request) -> None:
    _require_own(request.url)  # also the target of a redirect


def _require_own(url: httpx.URL) -> None:
    here = address()
    same_host = (url.scheme, url.host, url.port) == (here.scheme, here.host, here.port)
    if not (same_host and url.path.startswith(here.path.rstrip("/") + "/")):
        raise ToolError(f"The weather service points to {url.scheme}://{url.netloc.decode()}, which is not followed.")


def _detail(reply: httpx.Response) -> str:
    try:
        problem: Any = reply.json()  # RFC 9457
        return str(problem["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return ""


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
