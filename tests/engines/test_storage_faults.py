"""What the storage does when the disk, the file or its rights fail: the documented error, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.errors import StorageCorrupt, StorageError
from tests.engines.storage import StandingClock, Storage, step

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PATIENCE = 30


class Actor:
    """A process that uses the file, told what to do; its disk may be faulty."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, verb: str, *numbers: int) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, *numbers]).encode() + b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        return json.loads(line) if line else None  # it has died

    async def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        _, errors = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        sys.stderr.write(errors.decode())
        return self.process.returncode or 0


Start = Callable[..., Awaitable[Actor]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    actors: list[Actor] = []

    async def start(database: Path, *, durability: str = "full", **environment: str) -> Actor:
        command = (sys.executable, "-m", "tests.engines.storage_actor", "obey", str(database), durability)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | environment
        )
        actors.append(Actor(process))
        return actors[-1]

    yield start
    for actor in actors:
        if actor.process.returncode is None:
            actor.process.kill()
            await actor.process.communicate()


@pytest.fixture(scope="module")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("library") / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def look_into(database: Path) -> tuple[str, list[tuple[str, int]]]:
    """The result of an integrity check, and how many events each call has."""
    connection = sqlite3.connect(database)
    (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    rows = connection.execute("SELECT id, (SELECT count(*) FROM events WHERE call = n) FROM calls ORDER BY n")
    calls = rows.fetchall()
    connection.close()
    return integrity, calls


# --- a full disk ----------------------------------------------------------------------------------


@dataclass
class Disk:
    """A place for the file, which can be made full and empty again."""

    database: Path
    fill: Callable[[Actor], Awaitable[Any]]
    make_room: Callable[[Actor], Awaitable[Any]]
    environment: dict[str, str]


@pytest.fixture(params=["small", "limited", "full in the middle of a batch"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, faulty_disk: str) -> Iterator[Disk]:
    if request.param == "full in the middle of a batch":
        yield _failing_after(3, tmp_path, faulty_disk)
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if request.param == "limited" or subprocess.run(mount, capture_output=True).returncode != 0:
        yield _limited(folder)  # where mounting is refused, twice
        return
    try:
        yield _small(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _small(folder: Path) -> Disk:
    ballast = folder / "ballast"

    async def fill(_actor: Actor) -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    async def make_room(_actor: Actor) -> None:
        ballast.unlink()

    return Disk(folder / "calls.sqlite", fill, make_room, {})


def _limited(folder: Path) -> Disk:
    database = folder / "calls.sqlite"

    async def fill(actor: Actor) -> None:
        await actor.ask("limit files to", database.with_name("calls.sqlite-wal").stat().st_size + 5000)

    async def make_room(actor: Actor) -> None:
        await actor.ask("limit files to", -1)

    return Disk(database, fill, make_room, {})


def _failing_after(writes: int, folder: Path, faulty_disk: str) -> Disk:
    switch = folder / "no room"

    async def fill(_actor: Actor) -> None:
        switch.write_text(str(writes))

    async def make_room(_actor: Actor) -> None:
        switch.unlink()

    return Disk(folder / "calls.sqlite", fill, make_room, {"LD_PRELOAD": faulty_disk, "FAIL_WRITE": str(switch)})


async def test_a_full_disk_refuses_new_calls_holds_running_ones_and_loses_nothing(disk: Disk, start: Start) -> None:
    actor = await start(disk.database, **disk.environment)
    assert await actor.ask("open") == "done"
    running = await actor.ask("start")
    await actor.ask("give", 3, 100)
    assert await actor.ask("settle") == ["tuple"] * 3
    assert await actor.ask("write an entry") == "done"

    await disk.fill(actor)
    refusal, message = await actor.ask("give with a new call among them", 2, 20_000)
    assert refusal == "StorageFull"
    assert str(disk.database) in message
    assert (await actor.ask("start"))[0] == "StorageFull"
    assert await actor.ask("read the entries") == ["a"]
    assert await actor.ask("how many wait") == 4

    await disk.make_room(actor)
    assert await actor.ask("settle") == ["tuple"] * 7
    later = await actor.ask("start")
    assert await actor.ask("close") == "done"
    assert await actor.end() == 0
    assert look_into(disk.database) == ("ok", [(running, 7), (later, 0)])


async def test_closing_on_a_full_disk_fails_what_is_held_and_ends(disk: Disk, start: Start) -> None:
    actor = await start(disk.database, **disk.environment)
    await actor.ask("open")
    running = await actor.ask("start")
    await actor.ask("give", 1, 100)
    assert await actor.ask("settle") == ["tuple"]
    await disk.fill(actor)
    await actor.ask("give", 2, 20_000)
    assert await actor.ask("close") == "done"
    assert await actor.ask("settle") == ["tuple", "StorageFull", "StorageFull"]
    assert await actor.end() == 0
    assert look_into(disk.database) == ("ok", [(running, 1)])


async def test_a_new_file_on_a_full_disk_is_refused(database: Path, start: Start) -> None:
    actor = await start(database)
    await actor.ask("limit files to", 2000)
    refusal, message = await actor.ask("open")
    assert refusal == "StorageFull"
    assert str(database) in message


# --- syncs ----------------------------------------------------------------------------------------


async def test_a_failed_sync_ends_the_process_and_loses_nothing_acknowledged(
    database: Path, tmp_path: Path, start: Start, faulty_disk: str
) -> None:
    switch = tmp_path / "failing"
    actor = await start(database, LD_PRELOAD=faulty_disk, FAIL_SYNC=str(switch))
    await actor.ask("open")
    running = await actor.ask("start")
    await actor.ask("give", 5, 100)
    assert await actor.ask("settle") == ["tuple"] * 5
    switch.touch()
    await actor.ask("give", 1, 100)
    assert await actor.ask("settle") is None, "nothing is acknowledged any more"
    assert await actor.end() == os.EX_IOERR
    switch.unlink()
    integrity, [(call, events)] = look_into(database)
    assert (integrity, call) == ("ok", running)
    assert events in (5, 6), "what was not acknowledged may be there or not"
    again = await start(database)
    assert await again.ask("open") == "done"
    assert await again.ask("start")


@pytest.mark.parametrize("replaced", [False, True])
async def test_who_serves_a_file_that_is_no_longer_there_acknowledges_nothing_and_ends(
    database: Path, start: Start, replaced: bool
) -> None:
    actor = await start(database)
    await actor.ask("open")
    await actor.ask("start")
    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    if replaced:
        database.touch()
    assert await actor.ask("start") is None
    assert await actor.end() == os.EX_IOERR
    again = await start(database)
    assert await again.ask("open") == "done"
    assert await again.ask("start")


async def test_full_durability_syncs_each_commit_and_relaxed_does_not(
    tmp_path: Path, start: Start, faulty_disk: str
) -> None:
    syncs: dict[str, int] = {}
    for durability in ("full", "relaxed"):
        counter = tmp_path / f"{durability}.syncs"
        actor = await start(
            tmp_path / f"{durability}.sqlite", durability=durability, LD_PRELOAD=faulty_disk, SYNCS=str(counter)
        )
        await actor.ask("open")
        before = counter.stat().st_size if counter.exists() else 0
        for _ in range(10):
            await actor.ask("start")
        syncs[durability] = (counter.stat().st_size if counter.exists() else 0) - before
    assert syncs["full"] >= 10
    assert syncs["relaxed"] <= 1


# --- locks ----------------------------------------------------------------------------------------


@pytest.fixture
async def locked(database: Path) -> AsyncIterator[tuple[Storage, sqlite3.Connection]]:
    """A journal, and a program that knows nothing of its lock file and is in a transaction."""
    journal = SqliteJournal(database, busy_timeout=0.05)
    await journal.open()
    stranger = sqlite3.connect(database, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    yield Storage(journal, StandingClock()), stranger
    stranger.close()
    await journal.close()


class Listening(logging.Handler):
    """Hears what is logged, in whichever thread, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.put(record.getMessage())

    async def next(self) -> str:
        return await asyncio.to_thread(self.heard.get, timeout=PATIENCE)


@pytest.fixture
def listening() -> Iterator[Listening]:
    handler = Listening()
    logging.getLogger("perdure").addHandler(handler)
    yield handler
    logging.getLogger("perdure").removeHandler(handler)


async def test_a_locked_database_delays_writes_and_loses_none(
    locked: tuple[Storage, sqlite3.Connection], listening: Listening
) -> None:
    storage, stranger = locked
    started = asyncio.ensure_future(storage.held())
    assert "locked by another program" in await listening.next()
    assert not started.done()
    stranger.execute("COMMIT")
    held = await asyncio.wait_for(started, PATIENCE)
    assert (await storage.view(held.view.id)).status == "running"


async def test_closing_does_not_wait_for_a_locked_database(locked: tuple[Storage, sqlite3.Connection]) -> None:
    storage, _ = locked
    started = asyncio.ensure_future(storage.held())
    await asyncio.sleep(0)
    await asyncio.wait_for(storage.journal.close(), PATIENCE)
    with pytest.raises(StorageError, match="locked"):
        await started


# --- damaged files --------------------------------------------------------------------------------


async def make_calls(database: Path, count: int) -> list[str]:
    journal = SqliteJournal(database)
    await journal.open()
    storage = Storage(journal, StandingClock())
    calls = [await storage.held() for _ in range(count)]
    await storage.together(*[storage.unit(held, step(b"1" * 400, f"0/{i}")) for held in calls for i in range(5)])
    await journal.close()
    return [held.view.id for held in calls]


@pytest.mark.parametrize("size", [50, 100, 5000, 20_000])
async def test_a_truncated_file_is_refused_and_left_alone(database: Path, size: int) -> None:
    await make_calls(database, 30)
    os.truncate(database, size)
    left = database.read_bytes()
    with pytest.raises(StorageCorrupt) as refused:
        await SqliteJournal(database).open()
    assert str(database) in str(refused.value)
    assert database.read_bytes() == left


async def test_a_file_of_another_kind_is_refused_and_left_alone(database: Path) -> None:
    letter = "Dear database,\n" * 1000
    database.write_text(letter)
    with pytest.raises(StorageCorrupt):
        await SqliteJournal(database).open()
    assert database.read_text() == letter


async def test_a_damaged_page_fails_what_needs_it_with_a_clear_error(database: Path) -> None:
    ids = await make_calls(database, 60)
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096 * 4)
    journal = SqliteJournal(database)
    await journal.open()
    storage = Storage(journal, StandingClock())
    results = await asyncio.gather(*(storage.record(call_id) for call_id in ids), return_exceptions=True)
    kinds = {type(result).__name__ for result in results}
    assert kinds == {"Record", "StorageCorrupt"}
    await journal.close()


# --- rights ---------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where any user can look, unlike in pytest's own folders."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def become_somebody_else(actor: Actor) -> None:
    """Root may write everywhere."""
    if os.geteuid() == 0:
        await actor.ask("become", NOBODY)


async def test_a_folder_that_cannot_be_written_is_named(open_folder: Path, start: Start) -> None:
    open_folder.chmod(0o555)
    actor = await start(open_folder / "calls.sqlite")
    await become_somebody_else(actor)
    error, message = await actor.ask("open")
    assert error == "StorageError"
    assert str(open_folder / "calls.sqlite") in message
    assert "writable" in message
    assert list(open_folder.iterdir()) == []


async def test_a_file_that_cannot_be_written_is_named(open_folder: Path, start: Start) -> None:
    database = open_folder / "calls.sqlite"
    await make_calls(database, 1)
    for file in open_folder.iterdir():
        file.chmod(0o444 if file == database else 0o666)
    open_folder.chmod(0o777)
    actor = await start(database)
    await become_somebody_else(actor)
    error, message = await actor.ask("open")
    assert error == "StorageError"
    assert str(database) in message
    assert "writable" in message
