"""The raw disk: what a commit costs at the very least. Its median is the d of the table."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096
PAGES = 1024


class Disk:
    """A file that has its size, as a write-ahead log has after its first checkpoint: growing it would be dearer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._page = 0
        self._sync = getattr(os, "fdatasync", os.fsync)
        os.write(descriptor, bytes(PAGE * PAGES))
        os.fsync(descriptor)

    async def write(self) -> None:
        """Write a page and wait until it is on the disk."""
        self._page = (self._page + 1) % PAGES
        os.pwrite(self._descriptor, b"d" * PAGE, self._page * PAGE)
        self._sync(self._descriptor)


@contextmanager
def open_disk(folder: Path) -> Generator[Disk]:
    path = folder / "disk"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        yield Disk(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
