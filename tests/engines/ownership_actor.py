"""A process beside the tests of ownership: does what it is told on stdin, one line each, and says what came of it.

It is given the database's path. What it says by itself is `dead NAME`, when a watch of its calls back.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from perdure.engines.embedded.ownership import ProcessLock, Watch, forget, is_alive


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def live(database: Path) -> None:
    locks: list[ProcessLock] = []
    for line in sys.stdin:
        match line.split():
            case ["hold"]:
                locks.append(ProcessLock.hold(database))
                say(locks[-1].name)
            case ["release"]:
                locks.pop().release()
                say("released")
            case ["alive", name]:
                say(is_alive(database, name))
            case ["watch", name]:
                say("watching")  # first: the other line may follow at once
                Watch(database, name, lambda dead: say("dead", dead))
            case ["forget", name]:
                forget(database, name)
                say("forgotten")
            case ["fork", "and", doing]:
                say(fork(database, locks, doing))
            case ["pool"]:
                say(pool())
            case other:
                raise ValueError(other)


def fork(database: Path, locks: list[ProcessLock], doing: str) -> int | str:
    """`stay`: a child that outlives us, its pid. Otherwise what the child came to, which has ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        match doing:
            case "stay":
                leave_the_test()
                os.write(writer, str(os.getpid()).encode())
                while True:
                    time.sleep(60)
            case "release":
                locks[-1].release()
                os.write(writer, b"released")
            case _:
                os.write(writer, ProcessLock.hold(database).name.encode())
        os._exit(0)
    reply = os.read(reader, 100).decode()
    if doing != "stay":
        os.waitpid(pid, 0)
    return reply


def leave_the_test() -> None:
    """Let go of the pipes: the test sees the end of a process by theirs."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)


def pool() -> int:
    workers = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"), initializer=leave_the_test)
    return workers.submit(os.getpid).result()


if __name__ == "__main__":
    live(Path(sys.argv[1]))
