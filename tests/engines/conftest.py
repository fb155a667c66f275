"""The journals, for tests that hold on each of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engines.embedded.journal import Journal
from perdure.engines.embedded.memory import MemoryJournal
from perdure.engines.embedded.sqlite import SqliteJournal
from tests.engines.storage import StandingClock, Storage

# A faulty disk is a library that Linux loads before all others.
collect_ignore = [] if sys.platform == "linux" else ["test_storage_faults.py"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "calls.sqlite"


@pytest.fixture(params=["file", "memory"])
async def storage(request: pytest.FixtureRequest, database: Path) -> AsyncIterator[Storage]:
    """On both journals."""
    clock = StandingClock()
    journal: Journal = SqliteJournal(database, clock=clock) if request.param == "file" else MemoryJournal(clock=clock)
    async for opened in _opened(journal, clock):
        yield opened


@pytest.fixture
async def file_storage(database: Path) -> AsyncIterator[Storage]:
    clock = StandingClock()
    async for opened in _opened(SqliteJournal(database, clock=clock), clock):
        yield opened


async def _opened(journal: Journal, clock: StandingClock) -> AsyncIterator[Storage]:
    await journal.open()
    storage = Storage(journal, clock)
    storage.process = await storage.arrive()
    yield storage
    await journal.close()
