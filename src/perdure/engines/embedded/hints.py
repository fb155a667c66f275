"""Datagrams between the processes of one database that say "look at the journal", and nothing else.

A lost hint delays, until the journal is looked at anyway; a false one costs a look. So nothing is acknowledged,
repeated or signed. What a hint means is decided by whoever receives it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

LARGEST_DATAGRAM = 1400
"""Bytes: what fits an Ethernet frame, which every system passes on whole."""

MOST_IN_A_TURN = 64
"""Datagrams read in one turn of the loop: a flood costs each turn some 100 µs and no more."""

HOST = "127.0.0.1"
TOKEN_SIZE = 8

Kind = Literal["call", "due", "processes"]
KINDS: tuple[Kind, ...] = ("call", "due", "processes")  # their place is what is sent: append only


@dataclass(frozen=True, slots=True)
class Hint:
    """Where to look: at these calls (their ids), at what can be claimed, at which processes there are."""

    kind: Kind
    calls: tuple[str, ...] = ()


class Hints:
    """One socket on the loopback, of one event loop. Where there can be none, nothing is sent and nothing comes."""

    def __init__(self, database: Path) -> None:
        self._token = _token_of(database)
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_hint: Callable[[Hint], None] | None = None
        self.port = 0

    async def open(self, on_hint: Callable[[Hint], None]) -> int:
        """The port at which hints come from now on; 0 where none can.

        What comes in one turn of the loop comes as one hint of each kind. Opening again gives up the port before.
        """
        self.close()
        self._on_hint = on_hint
        try:
            self._socket = _bind()
            # Not a datagram endpoint: that reads one datagram a turn, so a busy loop would lag far behind.
            loop = asyncio.get_running_loop()
            loop.add_reader(self._socket, self._read)
        except (OSError, NotImplementedError):
            return 0  # a sandbox without a loopback; a loop that cannot read sockets (Windows' default)
        self._loop = loop
        self.port = self._socket.getsockname()[1]
        return self.port

    def send(self, ports: Iterable[int], hint: Hint) -> None:
        """To whoever is there, our own port and 0 passed over. Never waits."""
        sender = self._socket
        others = [port for port in ports if port not in (0, self.port)]
        if sender is None or not others:
            return
        for datagram in _encode(self._token, hint):
            for port in others:
                with suppress(OSError):  # a full buffer; nobody there
                    sender.sendto(datagram, (HOST, port))

    def close(self) -> None:
        if self._socket is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = self._loop = self._on_hint = None
        self.port = 0

    def _read(self) -> None:
        assert self._socket is not None
        heard: dict[Kind, dict[str, None]] = {}  # each call once, in the order in which they came
        with suppress(OSError):  # nothing more to read
            for _ in range(MOST_IN_A_TURN):
                hint = _decode(self._token, self._socket.recv(LARGEST_DATAGRAM + 1))
                if hint is not None:
                    heard.setdefault(hint.kind, {}).update(dict.fromkeys(hint.calls))
        for kind, calls in heard.items():
            if self._on_hint is not None:  # which may close us
                self._on_hint(Hint(kind, tuple(calls)))


def _bind() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind((HOST, 0))
    except OSError:
        bound.close()
        raise
    return bound


# --- datagrams ------------------------------------------------------------------------------------
#
# The token, one byte for the kind, the ids each on a line of its own.


def _token_of(database: Path) -> bytes:
    """No secret: it tells one database's hints from another's, and from what strays to a port that was used before."""
    return blake2b(os.fsencode(os.path.realpath(database)), digest_size=TOKEN_SIZE, person=b"perdure").digest()


def _encode(token: bytes, hint: Hint) -> list[bytes]:
    head = token + bytes([KINDS.index(hint.kind)])
    room = LARGEST_DATAGRAM - len(head)
    datagrams: list[bytes] = []
    lines = b""
    for call_id in hint.calls:
        line = call_id.encode() + b"\n"
        if lines and len(lines) + len(line) > room:
            datagrams.append(head + lines)
            lines = b""
        lines += line
    return [*datagrams, head + lines]


def _decode(token: bytes, datagram: bytes) -> Hint | None:
    """None for what is not ours, or is no datagram of this version."""
    if not datagram.startswith(token) or not TOKEN_SIZE < len(datagram) <= LARGEST_DATAGRAM:
        return None
    kind, lines = datagram[TOKEN_SIZE], datagram[TOKEN_SIZE + 1 :]
    try:
        return Hint(KINDS[kind], tuple(lines.decode().split("\n")[:-1]))
    except (IndexError, UnicodeDecodeError):
        return None
