"""Who asks: the caller of a request, decided from what its transport can prove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken, principal_components
from starlette.requests import HTTPConnection

from perdure.engine import MACHINE, Principal
from perdure.protocol import sdk


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may find a call again. `id` is None for a nobody: two nobodies are never equal."""

    id: str | None
    principal: Principal | None = None


OWN_USER = Caller(MACHINE)
"""The machine's own user."""

NOBODY = Caller(None)


@dataclass(frozen=True, slots=True)
class Doors:
    """What a server knows of the ways in which HTTP requests reach it."""

    bound: frozenset[tuple[str, int]] = frozenset()
    """Loopback addresses that perdure itself listens on; what others bound proves nothing."""
    host_check: bool = False
    """The SDK refuses foreign `Host` and `Origin` headers (DNS rebinding)."""
    auth: bool = False
    principal: Callable[[HTTPConnection], Principal | None] | None = None
    """Where it is given it decides alone, a token or not."""


def caller_of(ctx: sdk.RequestContext, doors: Doors) -> Caller:
    """The principal, else the machine's own user, else the session, else nobody.

    Off HTTP (stdio, in memory, streams of the user's own) the SDK gives messages no request: these are
    the machine's own user.
    """
    http: Any = ctx.request
    if http is None:
        return OWN_USER
    if (principal := _principal(http, doors)) is not None:
        return Caller(principal.caller, principal)
    if _is_own_user(http, doors):
        return OWN_USER
    session = sdk.session_id(ctx)
    return NOBODY if session is None else Caller(f"session:{session}")


def _principal(http: HTTPConnection, doors: Doors) -> Principal | None:
    if doors.principal is not None:
        return doors.principal(http)
    token = get_access_token()
    return None if token is None else principal_of(token)


def principal_of(token: AccessToken) -> Principal:
    """The identity that the SDK binds sessions to; a token without `sub` speaks for its client, as ""."""
    client_id, issuer, subject = principal_components(token)
    return Principal(subject or "", issuer, client_id, frozenset(token.scopes))


def _is_own_user(http: HTTPConnection, doors: Doors) -> bool:
    if doors.auth or doors.principal is not None or not doors.host_check:
        return False
    server, client = http.scope.get("server"), http.scope.get("client")
    return (
        server is not None
        and tuple(server) in doors.bound
        and client is not None
        and is_loopback(client[0])
        and not _was_forwarded(http)
    )


def _was_forwarded(http: HTTPConnection) -> bool:
    """A proxy on this host speaks for strangers: its own connection is loopback, and it may rewrite Host."""
    if http.scope.get("http_version") == "1.0":
        return True  # nginx's proxy_pass as configured by default, which adds none of the headers below
    return any(
        name in (b"forwarded", b"via", b"x-real-ip") or name.startswith(b"x-forwarded-")
        for name, _ in http.scope["headers"]
    )


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether an address, not a name, is this machine's own."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # Before 3.13 `::ffff:127.0.0.1` does not count as loopback by itself.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
