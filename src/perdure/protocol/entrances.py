"""Through which doors requests come in: each application of a server has its own.

What holds for one that is bound to loopback does not hold for one that is mounted elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from starlette.applications import Starlette

from perdure.protocol.callers import OWN_USER, Caller, Doors, caller_of
from perdure.protocol.sdk import RequestContext
from perdure.protocol.serve import Address, loopback_only


class Entrances:
    """Of one server. `elsewhere` are the doors of requests that no application of ours has brought."""

    def __init__(self, elsewhere: Doors) -> None:
        self._elsewhere = elsewhere
        self._doors: WeakKeyDictionary[Starlette, Doors] = WeakKeyDictionary()

    def add(self, app: Starlette, *, host_check: bool) -> None:
        self._doors[app] = replace(self._elsewhere, host_check=host_check)

    def bound(self, app: Starlette, addresses: Sequence[Address]) -> None:
        """It is we who listen for it, at these addresses."""
        self._doors[app] = replace(self._doors[app], bound=loopback_only(addresses))

    def caller_of(self, request: RequestContext | None) -> Caller:
        """A program of the machine's own user sends none."""
        return OWN_USER if request is None else caller_of(request, self._doors_of(request))

    def _doors_of(self, request: RequestContext) -> Doors:
        app = None if request.request is None else request.request.scope.get("app")
        return self._doors.get(app, self._elsewhere) if isinstance(app, Starlette) else self._elsewhere
