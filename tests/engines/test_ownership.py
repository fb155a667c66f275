"""Which process is alive: locks and watches, between real processes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.engines.embedded.ownership import ProcessLock, Watch, is_alive, successor
from perdure.errors import StorageError

PATIENCE = 10.0
"""Seconds that anything may take; what comes late fails, what comes early is not waited for."""


class Actor:
    def __init__(self, process: Process) -> None:
        self.process = process

    async def ask(self, order: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n".encode())
        return await self.hears()

    async def hears(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


Start = Callable[[], Awaitable[Actor]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "calls.db"


@pytest.fixture
async def start(database: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as actors:
        yield lambda: actors.enter_async_context(acting(database))


@asynccontextmanager
async def acting(database: Path) -> AsyncGenerator[Actor]:
    script = Path(__file__).with_name("ownership_actor.py")
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), str(database), stdin=PIPE, stdout=PIPE)
    try:
        yield Actor(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def locks_beside(database: Path) -> list[str]:
    return [path.stem for path in Path(f"{database}.owners").glob("*")]


# --- who is alive ---------------------------------------------------------------------------------


async def test_a_process_is_alive_to_others_until_it_is_killed(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    assert await other.ask(f"alive {name}") == "True"
    await one.kill()
    assert await other.ask(f"alive {name}") == "False"


async def test_a_name_without_a_file_is_dead(database: Path) -> None:
    assert not is_alive(database, "nobody")


async def test_asking_about_oneself_does_not_give_up_the_lock(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    assert await one.ask(f"alive {name}") == "True"
    assert await other.ask(f"alive {name}") == "True"


async def test_engines_of_one_process_share_one_lock_until_the_last_lets_go(start: Start, database: Path) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    assert await one.ask("hold") == name
    assert locks_beside(database) == [name]
    await one.ask("release")
    assert await other.ask(f"alive {name}") == "True"
    await one.ask("release")
    assert await other.ask(f"alive {name}") == "False"


async def test_the_last_to_leave_in_good_order_leaves_no_file_behind(start: Start, database: Path) -> None:
    one, other = await start(), await start()
    await one.ask("hold")
    name = await other.ask("hold")
    await one.ask("release")
    assert locks_beside(database) == [name]
    await other.ask("release")
    assert list(database.parent.iterdir()) == []


async def test_a_process_that_comes_back_has_another_name(start: Start) -> None:
    one = await start()
    name = await one.ask("hold")
    await one.ask("release")
    assert await one.ask("hold") != name


async def test_all_paths_to_a_file_mean_the_same_lock(start: Start, database: Path, tmp_path: Path) -> None:
    one = await start()
    name = await one.ask("hold")
    link = tmp_path / "link"
    link.symlink_to(database.parent)
    assert is_alive(link / database.name, name)


async def test_a_stopped_process_is_alive_and_dead_when_it_is_killed(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    await other.ask(f"watch {name}")
    one.process.send_signal(signal.SIGSTOP)
    await until_stopped(one.process.pid)
    assert await other.ask(f"alive {name}") == "True"
    await one.kill()
    assert await other.hears() == f"dead {name}"


async def until_stopped(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0)


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "calls.db.owners").write_text("in the way")
    with pytest.raises(StorageError, match=r"calls\.db\.owners"):
        ProcessLock.hold(tmp_path / "calls.db")


# --- forks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("child", ["fork and stay", "pool"])
async def test_a_child_that_outlives_its_parent_does_not_keep_it_alive(start: Start, child: str) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    await other.ask(f"watch {name}")
    pid = int(await one.ask(child))
    try:
        await one.kill()
        assert await other.hears() == f"dead {name}"
        os.kill(pid, 0)  # the child is still there
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_a_child_cannot_release_what_it_inherited(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    assert await one.ask("fork and release") == "released"
    assert await other.ask(f"alive {name}") == "True"


async def test_a_child_holds_a_lock_of_its_own(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    child = await one.ask("fork and hold")
    assert child != name
    assert await other.ask(f"alive {child}") == "False"  # it has ended
    assert await other.ask(f"alive {name}") == "True"


# --- watches --------------------------------------------------------------------------------------


async def test_whoever_watches_is_told_of_the_death(start: Start) -> None:
    one, other, third = await start(), await start(), await start()
    name = await one.ask("hold")
    await other.ask(f"watch {name}")
    await third.ask(f"watch {name}")
    await one.kill()
    assert await other.hears() == f"dead {name}"
    assert await third.hears() == f"dead {name}"


async def test_one_who_leaves_in_good_order_is_noticed_too(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    await other.ask(f"watch {name}")
    await one.ask("release")
    assert await other.hears() == f"dead {name}"


async def test_a_watch_on_one_who_is_dead_already_calls_back(start: Start) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    await one.kill()
    assert await other.ask(f"watch {name}") == "watching"
    assert await other.hears() == f"dead {name}"
    await other.ask(f"forget {name}")
    assert await other.ask(f"watch {name}") == "watching"
    assert await other.hears() == f"dead {name}"


async def test_removing_the_file_does_not_disturb_a_watch_that_waits(start: Start, database: Path) -> None:
    one, other = await start(), await start()
    name = await one.ask("hold")
    await other.ask(f"watch {name}")
    await other.ask(f"forget {name}")
    assert await other.ask(f"alive {name}") == "False"
    await one.kill()
    assert await other.hears() == f"dead {name}"


@pytest.mark.parametrize("size", [2, 4])
async def test_in_a_ring_each_death_is_seen_by_one_and_the_survivors_close_the_ring(start: Start, size: int) -> None:
    ring = {n: await start() for n in range(size)}
    names = {n: await actor.ask("hold") for n, actor in ring.items()}
    for n, actor in ring.items():
        await actor.ask(f"watch {names[successor(n, ring) or 0]}")

    for victim in list(ring)[:-1]:
        await ring.pop(victim).kill()
        watcher = next(n for n in ring if successor(n, [*ring, victim]) == victim)
        assert await ring[watcher].hears() == f"dead {names[victim]}"
        await ring[watcher].ask(f"forget {names[victim]}")
        following = successor(watcher, ring)
        if following is not None:
            assert await ring[watcher].ask(f"watch {names[following]}") == "watching"


async def test_where_two_die_at_once_the_next_of_the_ring_finds_both(start: Start) -> None:
    ring = [await start() for _ in range(3)]
    names = [await actor.ask("hold") for actor in ring]
    for n, actor in enumerate(ring):
        await actor.ask(f"watch {names[(n + 1) % 3]}")
    ring[1].process.kill()
    ring[2].process.kill()
    assert await ring[0].hears() == f"dead {names[1]}"
    assert await ring[0].ask(f"watch {names[2]}") == "watching"
    assert await ring[0].hears() == f"dead {names[2]}"


async def test_a_kernel_without_waits_on_open_file_descriptions_is_asked_again_and_again(
    start: Start, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown_to_the_kernel = 9999
    monkeypatch.setattr(fcntl, "F_OFD_SETLKW", unknown_to_the_kernel, raising=False)
    one = await start()
    dead = Deaths()
    Watch(database, await one.ask("hold"), dead.note)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)), Path(__file__).open() as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, b"\0" * 32)
    await one.kill()
    await dead.arrive(1)


# --- watches in one process -----------------------------------------------------------------------


class Deaths:
    def __init__(self) -> None:
        self.names: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def note(self, name: str) -> None:
        """In the watching thread."""
        self.names.append(name)
        self._loop.call_soon_threadsafe(self._news.set)

    async def arrive(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.names) < count:
                await self._news.wait()
                self._news.clear()


def waiting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("perdure-watch-")]


async def test_a_watch_that_was_stopped_does_not_call_back(start: Start, database: Path) -> None:
    one = await start()
    name = await one.ask("hold")
    stopped, dead = Deaths(), Deaths()
    watches = [Watch(database, name, stopped.note) for _ in range(3)]
    Watch(database, name, dead.note)
    for watch in watches:
        watch.stop()
    threads = waiting_threads()
    await one.kill()
    await dead.arrive(1)
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert stopped.names == []
    assert dead.names == [name]


async def test_watching_the_same_process_again_and_again_costs_one_thread(start: Start, database: Path) -> None:
    one = await start()
    name = await one.ask("hold")
    dead = Deaths()
    before = len(waiting_threads())
    for _ in range(50):
        Watch(database, name, dead.note).stop()
    Watch(database, name, dead.note)
    assert len(waiting_threads()) == before + 1
    await one.kill()
    await dead.arrive(1)


async def test_a_callback_that_raises_does_not_keep_the_news_from_others(
    start: Start, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[type[BaseException]] = []

    def note_error(args: threading.ExceptHookArgs) -> None:
        raised.append(args.exc_type)

    monkeypatch.setattr(threading, "excepthook", note_error)
    one = await start()
    name = await one.ask("hold")
    first, last = Deaths(), Deaths()

    def fail(name: str) -> None:
        raise LookupError(name)

    for note in (first.note, fail, last.note):
        Watch(database, name, note)
    threads = waiting_threads()
    await one.kill()
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert first.names == last.names == [name]
    assert raised == [LookupError]


async def test_nobody_watches_himself(database: Path) -> None:
    lock = ProcessLock.hold(database)
    try:
        with pytest.raises(ValueError, match="itself"):
            Watch(database, lock.name, print)
    finally:
        lock.release()


# --- whom to watch --------------------------------------------------------------------------------


@given(st.sets(st.integers(), min_size=2, max_size=12))
def test_the_watches_of_any_processes_are_one_ring(processes: set[int]) -> None:
    first = min(processes)
    walked = [first]
    while (following := successor(walked[-1], processes)) != first:
        assert following is not None
        walked.append(following)
    assert sorted(walked) == sorted(processes)


def test_one_who_is_alone_watches_nobody() -> None:
    assert successor(1, []) is None
    assert successor(1, [1]) is None
