"""The file of the journal: who may read it, what it weighs, which schemas it may have, who else may use it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perdure.engines.embedded import schema
from perdure.engines.embedded.journal import RemoveExpired, commit
from perdure.engines.embedded.lockfile import LockFile
from perdure.engines.embedded.mounts import NETWORK, file_system_of, kind_in, refuse_network_file_system
from perdure.engines.embedded.sqlite import SqliteJournal
from perdure.errors import SchemaTooNew, StorageCorrupt
from tests.engines.storage import MORNING, StandingClock, Storage, asked, step

ROOT = Path(__file__).parents[2]
ACTOR = (sys.executable, "-m", "tests.engines.storage_actor")


async def opened(database: Path) -> Storage:
    journal = SqliteJournal(database, clock=StandingClock())
    await journal.open()
    storage = Storage(journal, StandingClock())
    storage.process = await storage.arrive()
    return storage


async def test_only_its_user_may_read_the_file_and_what_lies_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    storage = await opened(folder / "calls.sqlite")
    files = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert files == {f"calls.sqlite{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-lock")}
    assert folder.stat().st_mode & 0o777 == 0o700
    await storage.journal.close()


async def test_a_file_that_is_there_keeps_its_mode(database: Path) -> None:
    await (await opened(database)).journal.close()
    database.chmod(0o640)
    await (await opened(database)).journal.close()
    assert database.stat().st_mode & 0o777 == 0o640


async def test_a_file_is_the_same_by_each_of_its_names(database: Path) -> None:
    link = database.with_name("link.sqlite")
    link.symlink_to(database)
    one, other = await opened(database), await opened(link)
    held = await one.held()
    assert (await other.view(held.view.id)).id == held.view.id
    assert not database.with_name("link.sqlite-lock").exists()
    for storage in (one, other):
        await storage.journal.close()


# --- schemas --------------------------------------------------------------------------------------


async def test_a_schema_newer_than_the_code_is_refused_and_left_alone(database: Path) -> None:
    storage = await opened(database)
    held = await storage.held()
    await storage.journal.close()
    known = len(schema.migrations())
    with sqlite3.connect(database) as connection:
        connection.execute(f"PRAGMA user_version = {known + 1}")
    connection.close()
    with pytest.raises(SchemaTooNew) as refused:
        await opened(database)
    assert (refused.value.found, refused.value.known) == (known + 1, known)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT id FROM calls").fetchall() == [(held.view.id,)]
    connection.close()


async def test_a_database_of_another_program_is_refused_and_left_alone(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(StorageCorrupt, match="another program"):
        await opened(database)
    with sqlite3.connect(database) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("recipes",)]


async def test_an_empty_file_becomes_a_database(database: Path) -> None:
    database.touch()
    storage = await opened(database)
    assert (await storage.held()).n == 1
    await storage.journal.close()


def test_migrations_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in (Path(schema.__file__).parent / "sql").glob("*.sql"))
    assert [name[:4] for name in names] == [f"{number:03}_" for number in range(1, len(names) + 1)]
    assert len(schema.migrations()) == len(names)


# --- its size -------------------------------------------------------------------------------------


async def test_a_step_weighs_at_most_400_bytes_more_than_its_payload(database: Path) -> None:
    storage = await opened(database)
    empty = 4096 * 40  # a page for each table and index
    value = b'"' + b"x" * 148 + b'"'
    calls = [await storage.held() for _ in range(20)]
    steps = 0
    for number in range(250):
        await storage.together(*[storage.unit(held, step(value, f"0.1.2/{number}")) for held in calls])
        steps += len(calls)
    await storage.journal.close()
    overhead = (database.stat().st_size - empty - steps * len(value)) / steps
    assert overhead <= 400


async def test_the_file_does_not_grow_with_calls_that_come_and_go(database: Path) -> None:
    sizes: list[int] = []
    for _ in range(12):
        storage = await opened(database)
        for _ in range(5):
            calls = [await storage.held(asked(key=f"k{i}", idempotency_key=f"i{i}")) for i in range(20)]
            for held in calls:
                await storage.append(held, *[step(b"1" * 500, f"0/{i}") for i in range(10)])
                await storage.complete(held, b"1" * 2000)
            assert await commit(storage.journal, RemoveExpired(MORNING + 1e9, 100)) == 20
        await storage.journal.close()
        sizes.append(database.stat().st_size)
    assert sizes[-1] <= sizes[1]


async def test_the_log_beside_the_file_is_copied_into_it_before_it_grows_large(database: Path) -> None:
    storage = await opened(database)
    held = await storage.held()
    written = 0
    for batch in range(150):
        await storage.append(held, *[step(b'"' + b"x" * 3000 + b'"', f"0/{batch * 50 + i}") for i in range(50)])
        written += 50 * 3000
    log = database.with_name("calls.sqlite-wal").stat().st_size
    assert written > 20_000_000
    assert log < written / 2
    assert database.stat().st_size > written / 2
    await storage.journal.close()
    assert not database.with_name("calls.sqlite-wal").exists()


# --- several at one file --------------------------------------------------------------------------


async def test_processes_share_a_file_and_lose_nothing(database: Path) -> None:
    await (await opened(database)).journal.close()
    actors = [
        await asyncio.create_subprocess_exec(
            *ACTOR, "many", str(database), name, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        for name in ("a", "b", "c")
    ]
    replies = await asyncio.wait_for(asyncio.gather(*(actor.communicate() for actor in actors)), 60)
    acknowledged = [json.loads(line) for out, _ in replies for line in out.splitlines()]
    assert [actor.returncode for actor in actors] == [0, 0, 0]
    assert len(acknowledged) == 3 * 200
    storage = await opened(database)
    for call_id, steps in acknowledged:
        record = await storage.record(call_id)
        assert (record.view.status, len(record.events)) == ("completed", steps + 2)
    await storage.journal.close()
    assert integrity(database) == "ok"


async def test_what_was_acknowledged_survives_a_kill_at_any_moment(database: Path) -> None:
    await (await opened(database)).journal.close()
    acknowledged: list[tuple[str, int]] = []
    for round_number in range(5):
        actor = await asyncio.create_subprocess_exec(
            *ACTOR, "endless", str(database), f"r{round_number}", stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert actor.stdout is not None
        for _ in range(40 + 37 * round_number):
            line = await asyncio.wait_for(actor.stdout.readline(), 30)
            acknowledged.append(json.loads(line))
        actor.send_signal(signal.SIGKILL)
        rest, _ = await actor.communicate()
        acknowledged += [json.loads(line) for line in rest.splitlines() if line.endswith(b"]")]
    assert integrity(database) == "ok"
    storage = await opened(database)
    for call_id, steps in acknowledged:
        assert len((await storage.record(call_id)).events) == steps + 2
    await storage.journal.close()


def integrity(database: Path) -> str:
    connection = sqlite3.connect(database)
    (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return found


# --- the lock file --------------------------------------------------------------------------------


def test_two_journals_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    one, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    inside = threading.Event()

    def wait() -> None:
        with other:
            inside.set()

    thread = threading.Thread(target=wait)
    with one:
        thread.start()
        assert not inside.wait(0.1)
    assert inside.wait(10)
    thread.join(10)
    one.close()
    other.close()


def test_who_holds_the_lock_for_long_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([*ACTOR, "hold", str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b'"held"\n'
    waiting = LockFile(path, patience=0.05)
    named = threading.Event()
    caplog.handler.addFilter(lambda record: named.set() or True)
    got_it = threading.Event()

    def wait() -> None:
        with waiting:
            got_it.set()

    thread = threading.Thread(target=wait)
    with caplog.at_level(logging.WARNING, "perdure"):
        thread.start()
        assert named.wait(10)
        assert not got_it.is_set()
        holder.kill()
        holder.communicate()
        assert got_it.wait(10)
    thread.join(10)
    waiting.close()
    (record,) = caplog.records
    assert f"process {holder.pid}" in record.getMessage()


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    parent = subprocess.Popen([*ACTOR, "fork", str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        lock = LockFile(path)
        acquired = threading.Event()

        def take() -> None:
            with lock:
                acquired.set()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        assert acquired.wait(10)
        thread.join(10)
        lock.close()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


# --- network file systems -------------------------------------------------------------------------

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:28 / /home rw,relatime - nfs4 server:/home rw,vers=4.2
31 30 0:29 / /home/ann/local rw - ext4 /dev/vdb rw
32 22 0:30 / /mnt/my\040share rw - cifs //server/share rw
33 22 0:31 / /mnt/two rw - ext4 /dev/vdc rw
34 33 0:32 / /mnt/two rw - fuse.sshfs host:/ rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/calls.sqlite", "ext4"),
        ("/home/ann/calls.sqlite", "nfs4"),
        ("/home/ann/local/calls.sqlite", "ext4"),
        ("/home/ann/localhost", "nfs4"),
        ("/homes/ann", "ext4"),
        ("/mnt/my share/calls.sqlite", "cifs"),
        ("/mnt/two/calls.sqlite", "fuse.sshfs"),
    ],
)
def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert kind_in(MOUNTS, path) == kind
    assert (kind in NETWORK) is (kind != "ext4")


def test_a_local_disk_is_not_refused(tmp_path: Path) -> None:
    refuse_network_file_system(tmp_path)
    if sys.platform == "linux":
        assert file_system_of(tmp_path)
