"""Who takes part in a file: a process that cannot join, or cannot leave in good order, does not look alive."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure.engines.embedded.engine import Embedded
from perdure.errors import StorageError


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A file that was used before."""
    database = tmp_path / "calls.sqlite"
    async with Embedded(database).serve(()):
        pass
    return database


def damage(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as file, file:
        file.execute(statement)


def nobody_looks_alive(database: Path) -> bool:
    return not Path(f"{database}.owners").exists()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Those for datagrams that are made during a test."""
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, family: int = -1, type: int = -1, *rest: int) -> None:
            super().__init__(family, type, *rest)
            if type == socket.SOCK_DGRAM:
                made.append(self)

    monkeypatch.setattr(socket, "socket", Noted)
    return made


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE processes"],
        ["DROP TABLE tries", "INSERT INTO processes (name, pid, port) VALUES ('dead', 1, 0)"],
    ],
    ids=["cannot register", "cannot take over from the dead"],
)
async def test_who_cannot_join_leaves_no_sign_of_life(
    database: Path, statements: list[str], sockets: list[socket.socket]
) -> None:
    for statement in statements:
        damage(database, statement)
    with pytest.raises(StorageError):
        async with Embedded(database).serve(()):
            raise AssertionError("it joined")
    assert nobody_looks_alive(database)
    assert sockets
    assert {each.fileno() for each in sockets} == {-1}


async def test_who_cannot_sign_off_leaves_no_sign_of_life(database: Path, sockets: list[socket.socket]) -> None:
    with pytest.raises(StorageError):
        async with Embedded(database).serve(()):
            damage(database, "DROP TABLE waits")
    assert nobody_looks_alive(database)
    assert {each.fileno() for each in sockets} == {-1}


async def test_who_is_cancelled_while_it_joins_leaves_no_sign_of_life(database: Path) -> None:
    async def serve() -> None:
        async with Embedded(database).serve(()):
            await asyncio.Event().wait()

    for turns in range(40):  # wherever in joining that is
        serving = asyncio.create_task(serve())
        for _ in range(turns):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving})
        assert nobody_looks_alive(database)


async def test_only_an_engine_in_memory_can_crash_and_live(database: Path) -> None:
    """A file would see the process join twice, and never leave."""
    engine = Embedded(database)
    async with engine.serve(()):
        with pytest.raises(RuntimeError, match="kill the process"):
            await engine.crash()
    assert nobody_looks_alive(database)
