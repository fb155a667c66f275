"""Which files the commands read, and how they are opened: beside whatever serves them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from perdure.calls import EVERYONE, Calls
from perdure.cli.problem import Problem
from perdure.datafile import data_file, data_files, data_folder
from perdure.engine import CallView, Engine, open_engine
from perdure.engines.embedded.engine import Embedded
from perdure.errors import CallNotFound, StorageError

T = TypeVar("T")

WHOLE_ID = 32
SEARCHED = 1000
"""The beginning of an id is looked for among so many calls of a file, the newest."""


@dataclass(frozen=True)
class Held:
    """A call, and the file that has it."""

    file: str
    view: CallView


def files_to_read(engine: str | None, server: str | None) -> list[str]:
    if engine is not None:
        return [_there(engine, "--engine")]
    if server is not None:
        return [_there(str(data_file(server)), f"--server {server}")]
    if named := os.environ.get("PERDURE_ENGINE"):
        return [_there(named, "PERDURE_ENGINE")]
    if files := data_files():
        return [str(file) for file in files]
    raise Problem(f"There are no calls yet: nothing is in {data_folder()}. Name another file with --engine.")


def _there(file: str, by: str) -> str:
    """The file, which `by` names."""
    engine = _engine_of(file)
    if isinstance(engine, Embedded) and engine.path is not None and not engine.path.is_file():
        raise Problem(f"There is no file {engine.path}, which {by} stands for.")
    return file


def _engine_of(file: str) -> Engine:
    try:
        engine = open_engine(file)
    except ValueError as error:
        raise Problem(str(error)) from None
    if isinstance(engine, Embedded) and engine.path is None:
        raise Problem("memory: is gone with its process; only a file can be read.")
    return engine


@asynccontextmanager
async def opened(file: str) -> AsyncGenerator[Calls]:
    """Every call of a file; nothing is run here, and servers may be at work on it."""
    engine = _engine_of(file)
    async with engine.serve((), work=False):
        yield Calls(lambda: engine, caller=EVERYONE)


async def read_each(files: list[str], read: Callable[[Calls], Awaitable[T]]) -> list[tuple[str, T]]:
    """What is read of each file. One of several that cannot be read does not hide the others; alone it fails."""
    done: list[tuple[str, T]] = []
    for file in files:
        try:
            async with opened(file) as calls:
                done.append((file, await read(calls)))
        except StorageError as error:
            if len(files) == 1:
                raise
            print(f"perdure: {Path(file).name} is left out: {error}", file=sys.stderr)
    if not done:
        raise Problem(f"None of the {len(files)} files in {data_folder()} can be read.")
    return done


async def find_call(files: list[str], id: str) -> Held:
    """The one call with this id, or whose id begins so."""
    if not id:  # an empty variable of a script: any call begins so, and the only one would be cancelled
        raise Problem("The id is empty. Give a call's id, or its first characters.")
    read = await read_each(files, lambda calls: _matching(calls, id))
    found = [Held(file, view) for file, views in read for view in views]
    match found:
        case [one]:
            return one
        case []:
            raise CallNotFound(id)
        case _:
            ids = ", ".join(held.view.id for held in found)
            raise Problem(f"{id} is the beginning of {len(found)} ids: {ids}. Give more of it.")


async def _matching(calls: Calls, id: str) -> list[CallView]:
    try:
        return [await calls.get(id)]
    except CallNotFound:
        if len(id) >= WHOLE_ID:
            return []
    newest = (await calls.find(limit=SEARCHED)).calls
    return [view for view in newest if view.id.startswith(id)]
