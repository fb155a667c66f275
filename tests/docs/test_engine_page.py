"""docs/engine.md: its settings are the engine's, its files are there, its ways to open and copy one work."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableContext, DurableMCP, Embedded
from perdure.cli.app import app
from perdure.engine import open_engine

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()

COPY = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as live, sqlite3.connect(sys.argv[2]) as copy:
    live.backup(copy)
"""


def section(title: str) -> str:
    return re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[[*titles(), title].index(title) + 1]


def titles() -> list[str]:
    return re.findall(r"^##+ (.*)$", PAGE, re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_settings_are_those_of_the_engine() -> None:
    parameters = list(inspect.signature(Embedded).parameters.values())[1:]

    def shown(default: Any) -> str:
        return str(default.total_seconds()) if isinstance(default, timedelta) else str(default)

    told = {name.strip("`"): default.strip("`") for name, default, _ in rows(section("Settings"))}
    assert told == {parameter.name: shown(parameter.default) for parameter in parameters}


@pytest.mark.parametrize("setting", [name.strip("`") for name, *_ in rows(section("Settings"))])
def test_each_setting_can_be_in_a_url(setting: str) -> None:
    value = "relaxed" if setting == "durability" else "7"
    engine: Any = open_engine(f"sqlite:///trips.db?{setting}={value}")
    assert engine.path == Path("trips.db").absolute()
    found = engine.durability if setting == "durability" else getattr(engine.settings, setting)
    assert found in ("relaxed", 7, timedelta(seconds=7))


def test_its_ways_to_name_an_engine_are_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    made = [ast.unparse(line.value) for line in ast.parse(code).body if isinstance(line, ast.Assign)]
    names = {"DurableMCP": DurableMCP, "Embedded": Embedded, "timedelta": timedelta}
    engines: list[Any] = [eval(each, names).engine for each in made]
    assert [engine.path for engine in engines] == [Path("trips.db").absolute()] * 3
    assert [engine.durability for engine in engines] == ["full", "relaxed", "relaxed"]


def trips(file: Path) -> DurableMCP[Any]:
    mcp = DurableMCP("trips", engine=file)

    @mcp.tool()
    async def book(city: str, ctx: DurableContext) -> str:
        return f"{city} is booked"

    return mcp


async def test_the_files_beside_the_database_are_these_and_only_its_user_may_read_them(tmp_path: Path) -> None:
    mcp = trips(tmp_path / "trips.db")
    async with mcp.serving():
        call = await mcp.calls.start("book", {"city": "Oslo"})
        assert await call.result() == "Oslo is booked"
        there = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    told = [name for cell, _ in rows(section("Files beside the database")) for name in re.findall("`([^`]*)`", cell)]
    assert sorted(there) == sorted(name.rstrip("/") for name in told)
    assert set(there.values()) == {0}


async def test_a_live_file_can_be_copied_from_another_process(tmp_path: Path) -> None:
    mcp = trips(tmp_path / "trips.db")
    copy = tmp_path / "copy.db"
    async with mcp.serving():
        call = await mcp.calls.start("book", {"city": "Oslo"})
        await call.result()
        subprocess.run([sys.executable, "-c", COPY, str(tmp_path / "trips.db"), str(copy)], check=True)
    of_the_copy = trips(copy)
    async with of_the_copy.serving(work=False):
        assert await of_the_copy.calls.result(call.id) == "Oslo is booked"
    with sqlite3.connect(f"file:{copy}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_data_folder_is_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        return  # the page says where it is on Linux
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "PERDURE_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    engine: Any = DurableMCP("trips").engine
    assert engine.path == Path(os.path.expanduser("~/.local/share/perdure/trips.db"))
    assert engine.path.stat().st_mode & 0o777 == 0o600


def test_its_commands_are_commands() -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = set(re.findall(r"`perdure (\w+)", PAGE))
    assert named - known == set()
