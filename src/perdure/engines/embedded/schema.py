"""The schema of the database: numbered migrations in `sql/`, and refusal of what we do not know."""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib.resources import files

from perdure.errors import SchemaTooNew, StorageCorrupt

APPLICATION_ID = 0x70657264
"""'perd', in the header of every database of ours."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the database to the schema of this version, in one transaction; an up-to-date one is not written to."""
    if _check(connection, path) == len(migrations()):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        for number in range(_check(connection, path), len(migrations())):
            _perform(connection, migrations()[number])
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations())}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(connection: sqlite3.Connection, path: str) -> int:
    """The number of the last migration that the database has had."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StorageCorrupt(f"{path} is a database of another program. Use another file.")
    if version > len(migrations()):
        raise SchemaTooNew(path, version, len(migrations()))
    return version


@cache
def migrations() -> tuple[str, ...]:
    """The text of `001_*.sql`, `002_*.sql` and so on."""
    folder = files("perdure.engines.embedded") / "sql"
    scripts = sorted((script for script in folder.iterdir() if script.name.endswith(".sql")), key=lambda s: s.name)
    return tuple(script.read_text("utf-8") for script in scripts)


def _perform(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: `executescript` would commit before its first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
