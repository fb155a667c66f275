"""Where the calls of a server are kept that was not told where: a file of its name in the user's data folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

SUFFIX = ".db"


def data_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("perdure", appauthor=False)


def data_files() -> list[Path]:
    """Of all servers that have one."""
    return sorted(data_folder().glob(f"*{SUFFIX}"))


def data_file(server: str) -> Path:
    """One file per server name; it need not be there."""
    return data_folder() / f"{quote(server, safe=' ')}{SUFFIX}"


def private_data_file(server: str) -> Path:
    """The server's file, made if there is none; nobody else on the machine may read it."""
    file = data_file(server)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # SQLite's other files take the mode of the first. One that is there is left alone: to open it by hand,
        # and close it, would drop the locks of an engine of this process.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return file
