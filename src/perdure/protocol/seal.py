"""The seal of request state: what a client is given to come back with cannot be forged, and outlives the process.

The key has a file of its own beside the calls, so that every process on them, and the next, opens what any has sealed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mcp.server.request_state import AESGCMRequestStateCodec, RequestStateSecurity

from perdure.engine import TIME_TO_LIVE
from perdure.errors import StorageCorrupt
from perdure.protocol.sdk import RequestContext

SUFFIX = "-seal"

KEY_BYTES = 32

WRITTEN_WITHIN = 1.0
"""Seconds after which a file that is shorter than a key is none."""


def sealed_by(seal: Seal, caller: Callable[[RequestContext], str | None]) -> RequestStateSecurity:
    """State that the `caller` it was given to can use, and nobody else; a nobody's is good for whoever has it.

    It lives as long as a question without a time-out, and may be used more than once: only the first answer counts.
    """
    return RequestStateSecurity(codec=seal, ttl=TIME_TO_LIVE.total_seconds(), bind_principal=caller)


class Seal:
    """The SDK's own codec. `calls` is the file they are kept in; the key of calls in memory goes with them."""

    def __init__(self, calls: Callable[[], Path | None]) -> None:
        self._calls = calls
        self._codecs: dict[Path | None, AESGCMRequestStateCodec] = {}

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        return self._codec.unseal(token)

    def make_ready(self) -> None:
        """Raises where there is no key, and none can be made."""
        self._codec  # noqa: B018 - which reads it, or makes it

    @property
    def _codec(self) -> AESGCMRequestStateCodec:
        calls = self._calls()
        if calls not in self._codecs:
            key = secrets.token_bytes(KEY_BYTES) if calls is None else key_beside(calls)
            self._codecs[calls] = AESGCMRequestStateCodec([key])
        return self._codecs[calls]


def key_beside(calls: Path) -> bytes:
    """The one key of a file, made if there is none."""
    file = calls.with_name(calls.name + SUFFIX)
    if not file.exists():
        _make(file)
    key = _read(file)
    if len(key) != KEY_BYTES:
        raise StorageCorrupt(f"{file} is no key. Remove it; what clients were given to come back with is void then.")
    return key


def _make(file: Path) -> None:
    # Under another name first: who finds the key finds all of it, whoever dies in between. Of two who make one, the
    # first to link it has made it.
    key = secrets.token_bytes(KEY_BYTES)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    _write(draft, key)
    try:
        with suppress(FileExistsError):
            _link(draft, file, key)
    finally:
        draft.unlink()


def _link(draft: Path, file: Path, key: bytes) -> None:
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:  # not every file system has links
        _write(file, key)


def _write(file: Path, key: bytes) -> None:
    opened = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(opened, "wb") as new:
            new.write(key)
            new.flush()
            os.fsync(new.fileno())
    except BaseException:
        file.unlink()
        raise


def _read(file: Path) -> bytes:
    """Where there are no links, a key that was made just now may not be written yet."""
    while len(key := file.read_bytes()) < KEY_BYTES and 0 <= time.time() - file.stat().st_mtime < WRITTEN_WITHIN:
        time.sleep(0.01)
    return key
