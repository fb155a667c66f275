"""The weather service of the demo: a stand-in that fails and counts, or the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from perdure.cli.children import Child, listening
from perdure.cli.files import opened
from perdure.servers import nws

FAULTS = ["/points=503,slow:0.5", "/gridpoints=down:2"]

Counts = dict[str, dict[str, int]]
"""Of each path: `received`, `succeeded`, `after_success`."""


@dataclass(frozen=True)
class Claim:
    what: str
    holds: bool


class Service(Protocol):
    introduction: str
    settings: dict[str, str]
    """What the server must find in its environment."""

    async def said_where(self, file: Path) -> bool:
        """Whether it has answered the first of the two requests."""
        ...

    async def counts(self) -> Counts: ...
    def claims(self, at_kill: Counts, counts: Counts) -> list[Claim]: ...


class StandIn:
    """Its own process, so that it outlives the server."""

    def __init__(self, child: Child, http: httpx.AsyncClient) -> None:
        self._counts = f"{child.address}/_counts"
        self._http = http
        self.introduction = (
            f"A stand-in for the weather service listens at {child.address}, process {child.pid}. It fails as planned."
        )
        self.settings = {nws.SETTING: child.address}

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncGenerator[Service]:
        faults = [part for fault in FAULTS for part in ("--fault", fault)]
        async with listening("perdure.servers.standins.weather", *faults) as child, httpx.AsyncClient() as http:
            yield cls(child, http)

    async def said_where(self, file: Path) -> bool:
        return any(each["succeeded"] for each in (await self.counts()).values())

    async def counts(self) -> Counts:
        return (await self._http.get(self._counts)).raise_for_status().json()

    def claims(self, at_kill: Counts, counts: Counts) -> list[Claim]:
        return _about_requests(at_kill, counts)


class RealService:
    """It counts nothing, so nothing is claimed about what it was sent."""

    def __init__(self) -> None:
        self.introduction = f"The weather service is the real one, {nws.SERVICE}."
        self.settings = {nws.SETTING: nws.SERVICE}

    @classmethod
    @asynccontextmanager
    async def found(cls) -> AsyncGenerator[Service]:
        yield cls()

    async def said_where(self, file: Path) -> bool:
        async with opened(str(file)) as calls:
            newest = (await calls.find(limit=1)).calls
            return bool(newest) and any(entry.kind == "step" for entry in await calls.timeline(newest[0].id))

    async def counts(self) -> Counts:
        return {}

    def claims(self, at_kill: Counts, counts: Counts) -> list[Claim]:
        return []


def _about_requests(at_kill: Counts, counts: Counts) -> list[Claim]:
    return [
        Claim("The service was asked for the forecast only after the restart.", _asked_later(at_kill, counts)),
        Claim(
            "Each upstream request succeeded exactly once.",
            len(counts) == 2 and all(each["succeeded"] == 1 for each in counts.values()),
        ),
        Claim(
            "None was sent after it had succeeded.",
            bool(counts) and all(each["after_success"] == 0 for each in counts.values()),
        ),
    ]


def _asked_later(at_kill: Counts, counts: Counts) -> bool:
    return sum(each["succeeded"] for each in at_kill.values()) == 1 and set(at_kill) < set(counts)
