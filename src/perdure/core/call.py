"""Ids and states of calls."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Literal

Status = Literal["running", "waiting", "stuck", "completed", "failed", "cancelled"]

ENDED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""What a divergence names: the standard library's tasks may wake in another order in the next one."""


def new_call_id() -> str:
    """128 bits of chance: whoever has it may be an anonymous caller's only proof."""
    return _chance.take(16).hex()


def new_seed() -> int:
    """63 bits, as SQLite has them."""
    return int.from_bytes(_chance.take(8)) >> 1


class _Chance:
    """The system's random bytes, fetched many at a time: a system call costs more than the rest of an id."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        if self._used + count > len(self._bytes):
            self._bytes, self._used = os.urandom(4096), 0
        self._used += count
        return self._bytes[self._used - count : self._used]

    def forget(self) -> None:
        """A forked child must not give out its parent's ids."""
        self._bytes = b""


_chance = _Chance()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_chance.forget)


def child_call_id(parent: str, key: str) -> str:
    """The id of a child without a key of its own: the same in every life of its parent."""
    return hashlib.blake2b(f"{parent}\n{key}".encode(), digest_size=16).hexdigest()


def idempotency_key(call_id: str, key: str) -> str:
    """The same in every attempt and life of a step, unique per step of a call."""
    return hashlib.blake2b(f"{call_id}\n{key}".encode(), digest_size=16, person=b"perdure-step").hexdigest()
