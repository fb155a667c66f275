"""Ids and states of calls, and the legal transitions between the states."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

Status = Literal["running", "waiting", "stuck", "completed", "failed", "cancelled"]

ENDED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    "running": frozenset({"running", "waiting", "stuck", "completed", "failed", "cancelled"}),
    "waiting": frozenset({"running", "waiting", "stuck", "completed", "failed", "cancelled"}),
    # Out of "stuck" only by code that fits again, an operator's retry, or a cancel without clean-up.
    "stuck": frozenset({"running", "stuck", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def new_call_id() -> str:
    """128 bits of chance: whoever has it may be an anonymous caller's only proof."""
    return secrets.token_hex(16)


def child_call_id(parent: str, key: str) -> str:
    """The id of a child without a key of its own: the same in every life of its parent."""
    return hashlib.blake2b(f"{parent}\n{key}".encode(), digest_size=16).hexdigest()


def idempotency_key(call_id: str, key: str) -> str:
    """The same in every attempt and life of a step, unique per step of a call."""
    return hashlib.blake2b(f"{call_id}\n{key}".encode(), digest_size=16, person=b"perdure-step").hexdigest()
