"""Hints between the processes of one database: delivered as a rule, harmless when lost or forged."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engines.embedded.hints import LARGEST_DATAGRAM, Hint, Hints

PATIENCE = 10.0
MANY = tuple(f"{n:032x}" for n in range(1000))


class Listener:
    def __init__(self, database: Path) -> None:
        self.hints = Hints(database)
        self.heard: list[Hint] = []
        self._news = asyncio.Event()

    async def open(self) -> int:
        return await self.hints.open(self._note)

    def _note(self, hint: Hint) -> None:
        self.heard.append(hint)
        self._news.set()

    async def hear(self, *hints: Hint) -> None:
        """Until all of them have come."""
        async with asyncio.timeout(PATIENCE):
            while not set(hints) <= set(self.heard):
                await self._news.wait()
                self._news.clear()

    def calls(self) -> list[str]:
        return [call_id for hint in self.heard for call_id in hint.calls]


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Listener]:
    listener = Listener(tmp_path / "calls.db")
    await listener.open()
    yield listener
    listener.hints.close()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Listener]:
    listener = Listener(tmp_path / "calls.db")
    await listener.open()
    yield listener
    listener.hints.close()


async def test_a_hint_reaches_all_who_listen(one: Listener, other: Listener, tmp_path: Path) -> None:
    third = Listener(tmp_path / "calls.db")
    await third.open()
    one.hints.send([other.hints.port, third.hints.port], Hint("call", ("c3", "c5")))
    await other.hear(Hint("call", ("c3", "c5")))
    await third.hear(Hint("call", ("c3", "c5")))
    third.hints.close()


async def test_a_hint_comes_from_another_process(one: Listener, tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from perdure.engines.embedded.hints import Hint, Hints

async def main():
    hints = Hints(Path(sys.argv[1]))
    await hints.open(print)
    hints.send([int(sys.argv[2])], Hint("processes"))
    hints.close()

asyncio.run(main())
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "calls.db"), str(one.hints.port)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE)
    await one.hear(Hint("processes"))
    assert await process.wait() == 0


async def test_each_kind_comes_as_it_was_sent(one: Listener, other: Listener) -> None:
    hints = Hint("call", ("c1", "weather/é")), Hint("due"), Hint("processes")
    for hint in hints:
        one.hints.send([other.hints.port], hint)
    await other.hear(*hints)


async def test_what_comes_in_one_turn_of_the_loop_comes_as_one(one: Listener, other: Listener) -> None:
    for call_id in ("c7", "c8", "c7", "c9"):
        one.hints.send([other.hints.port], Hint("call", (call_id,)))
        one.hints.send([other.hints.port], Hint("due"))
    await other.hear(Hint("due"))
    assert other.heard == [Hint("call", ("c7", "c8", "c9")), Hint("due")]


async def test_a_large_batch_is_split_into_datagrams_that_fit_a_frame(tmp_path: Path) -> None:
    sender = Hints(tmp_path / "calls.db")
    await sender.open(print)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.settimeout(PATIENCE)
        sender.send([wire.getsockname()[1]], Hint("call", MANY))
        sizes: list[int] = []
        while sum(sizes) < len("".join(MANY)):
            sizes.append(len(wire.recv(65536)))
    sender.close()
    assert max(sizes) <= LARGEST_DATAGRAM


async def test_a_large_batch_comes_whole(one: Listener, other: Listener) -> None:
    one.hints.send([other.hints.port], Hint("call", MANY))
    one.hints.send([other.hints.port], Hint("due"))
    await other.hear(Hint("due"))
    assert other.calls() == list(MANY)


async def test_nobody_at_a_port_harms_nobody_else(one: Listener, other: Listener, tmp_path: Path) -> None:
    gone = Listener(tmp_path / "calls.db")
    port = await gone.open()
    gone.hints.close()
    for _ in range(10):
        one.hints.send([port, other.hints.port], Hint("due"))
    await other.hear(Hint("due"))
    other.hints.send([one.hints.port], Hint("due"))
    await one.hear(Hint("due"))


async def test_a_hint_is_not_sent_to_oneself(one: Listener, other: Listener) -> None:
    one.hints.send([one.hints.port, other.hints.port], Hint("due"))
    other.hints.send([one.hints.port], Hint("processes"))
    await one.hear(Hint("processes"))
    assert one.heard == [Hint("processes")]


async def test_hints_of_another_database_are_ignored(one: Listener, other: Listener, tmp_path: Path) -> None:
    stranger = Hints(tmp_path / "another.db")
    await stranger.open(print)
    stranger.send([other.hints.port], Hint("call", ("c1",)))
    one.hints.send([other.hints.port], Hint("due"))
    await other.hear(Hint("due"))
    stranger.close()
    assert other.heard == [Hint("due")]


async def test_all_paths_to_a_file_mean_the_same_database(one: Listener, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    sender = Hints(tmp_path / "link" / "calls.db")
    await sender.open(print)
    sender.send([one.hints.port], Hint("due"))
    await one.hear(Hint("due"))
    sender.close()


async def test_garbage_is_ignored(one: Listener, other: Listener, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        one.hints.send([wire.getsockname()[1]], Hint("call", ("c1",)))
        genuine = wire.recv(65536)
        for garbage in (b"", b"x", genuine[:8], genuine[:8] + b"\xff", genuine + b"\xff", genuine * 200):
            wire.sendto(garbage, ("127.0.0.1", other.hints.port))
    one.hints.send([other.hints.port], Hint("due"))
    await other.hear(Hint("due"))
    assert other.heard == [Hint("due")]


async def test_a_flood_does_not_keep_the_loop_from_its_other_work(one: Listener, other: Listener) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    for call_id in MANY[:150]:
        one.hints.send([other.hints.port], Hint("call", (call_id,)))
    one.hints.send([other.hints.port], Hint("due"))
    turn()
    await other.hear(Hint("due"))
    assert turns >= 150 // 64
    assert other.calls() == list(MANY[:150])
    assert len(other.heard) <= 150 // 64 + 2  # one for each turn, and the last


async def test_after_closing_nothing_is_sent_or_heard(one: Listener, other: Listener) -> None:
    port = other.hints.port
    other.hints.close()
    other.hints.close()
    other.hints.send([one.hints.port], Hint("call", ("c1",)))
    one.hints.send([port], Hint("call", ("c2",)))
    await other.open()
    other.hints.send([one.hints.port], Hint("due"))
    one.hints.send([other.hints.port], Hint("due"))
    await one.hear(Hint("due"))
    await other.hear(Hint("due"))
    assert one.heard == other.heard == [Hint("due")]


async def test_opening_again_gives_up_the_port_before(one: Listener, other: Listener) -> None:
    former = one.hints.port
    await one.open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", former))
    other.hints.send([one.hints.port], Hint("due"))
    await one.hear(Hint("due"))


async def test_where_no_socket_can_be_had_it_works_without(tmp_path: Path) -> None:
    hints = Hints(tmp_path / "calls.db")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no further file descriptor
    try:
        assert await hints.open(print) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    hints.send([9], Hint("due"))
    hints.close()
