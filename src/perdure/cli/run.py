"""Run a server, or only its calls."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from contextlib import suppress
from socket import gaierror

from perdure.cli.ending import clean_up_first
from perdure.cli.problem import Problem
from perdure.cli.target import Server, find_server
from perdure.datafile import private_data_file
from perdure.engine import Engine, open_engine
from perdure.engines.embedded.development import Development
from perdure.engines.embedded.engine import Embedded

CANNOT_LISTEN = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}


def run_server(target: str, *, port: int | None, host: str, engine: str | None, dev: bool) -> None:
    server = find_server(target)
    clean_up_first()
    where = _choose_engine(server, engine, dev=dev)
    if port is None:
        server.run()
        return
    asyncio.run(_open_once(where))
    try:
        server.run("streamable-http", host=host, port=port)
    except OSError as error:
        if isinstance(error, gaierror):
            raise Problem(f"Cannot listen on {host}: {error.strerror}.") from None
        if error.filename is None and error.errno in CANNOT_LISTEN:
            raise Problem(error.strerror) from None
        raise


async def _open_once(engine: Engine) -> None:
    """A file that cannot be used is said before anything listens: uvicorn would bury it in its tracebacks."""
    async with engine.serve((), work=False):
        pass


def run_worker(target: str, *, engine: str | None) -> None:
    server = find_server(target)
    clean_up_first()
    where = _choose_engine(server, engine, dev=False)
    asyncio.run(_work(server, where))


async def _work(server: Server, engine: Engine) -> None:
    """Until SIGINT or SIGTERM; then running steps have the engine's grace, and the rest goes to siblings."""
    ending = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        with suppress(NotImplementedError):  # Windows: Ctrl-C cancels this task, which drains as well
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with server.serving():
        print(f"Running calls of {server.name} in {engine!r}. Ctrl-C ends it.", file=sys.stderr, flush=True)
        await ending.wait()


def _choose_engine(server: Server, engine: str | None, *, dev: bool) -> Engine:
    """What is said here beats what the server says; development must not touch real calls."""
    try:
        if dev:
            chosen = open_engine(engine or private_data_file(f"{server.name}-dev"))
            server.engine = Development.of(chosen) if isinstance(chosen, Embedded) else chosen
        elif engine is not None:
            server.engine = open_engine(engine)
        return server.engine
    except ValueError as error:
        raise Problem(str(error)) from None
