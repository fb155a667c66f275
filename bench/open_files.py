"""How many connections a process may have open."""

from __future__ import annotations

import resource

KEPT = 200
"""For all that is no connection of a bench's."""


def allow_connections(wanted: int) -> int:
    """How many of those wanted this process may have, its limit raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - KEPT)
