"""A process with an engine on a shared file: does what it is told on stdin, and says on stdout what came of it.

Orders and replies are JSON, one a line; a reply has the number of its order. What functions do is said unasked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from perdure.core.call import idempotency_key
from perdure.core.events import StepReturned
from perdure.engine import CallView, Cancel, Query, SetEntry, Signal, SignalSpec
from perdure.engines.embedded.engine import Embedded
from perdure.errors import CallEnded
from tests.engines.functions import request_for
from tests.processes.load import Load
from tests.processes.world import World, functions


@dataclass(frozen=True)
class Role:
    """How a process takes part: `deaf` to hints, `slow_to_leave` once its work is over, `quiet` about steps."""

    work: bool = True
    serves: list[str] | None = None
    grace: float = 1.0
    deaf: bool = False
    slow_to_leave: bool = False
    quiet: bool = False


def say(what: str, **more: Any) -> None:
    os.write(1, json.dumps({"said": what, **more}).encode() + b"\n")


def be_quiet(what: str, **more: Any) -> None:
    pass


class DeafLoop(asyncio.SelectorEventLoop):
    """Cannot read datagrams, as the default loop of Windows: no hint is ever heard."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


class Actor:
    def __init__(self, engine: Embedded, world: World) -> None:
        self._engine = engine
        self._world = world
        self._functions = functions(world)
        self._tasks: set[asyncio.Task[None]] = set()
        self._load: Load | None = None

    async def live(self, role: Role) -> None:
        served = [f for name, f in self._functions.items() if role.serves is None or name in role.serves]
        around = self._lifespan(role) if role.slow_to_leave else None
        async with self._engine.serve(served if role.work else (), work=role.work, around=around):
            say("ready")
            orders = asyncio.create_task(self._take_orders())
            self._tasks.add(orders)
            leaving = self._world.gates["leaving"]
            await leaving.wait()
        say("has left")

    @asynccontextmanager
    async def _lifespan(self, role: Role) -> AsyncGenerator[None]:
        yield
        say("work is over")
        await self._world.gates["lifespan"].wait()

    async def _take_orders(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order: dict[str, Any] = json.loads(line)
            task = asyncio.create_task(self._reply(order.pop("number"), order.pop("do"), order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._world.gates["leaving"].set()
        self._world.gates["lifespan"].set()

    async def _reply(self, number: int, do: str, order: dict[str, Any]) -> None:
        obey: Callable[..., Any] = getattr(self, do)
        try:
            reply: dict[str, Any] = {"reply": await obey(**order)}
        except Exception as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        os.write(1, json.dumps({"number": number, **reply}).encode() + b"\n")

    # --- orders ---

    async def start(self, function: str, argument: Any = None, **options: Any) -> str:
        if function == "collects":
            options["signals"] = (SignalSpec("item", False, {}),)
        if "retain" in options:
            options["retain"] = timedelta(seconds=options["retain"])
        accepted = await self._engine.start(request_for(self._functions[function], argument, **options))
        return accepted.call_id

    async def crowd(self, function: str, argument: Any, key: str, count: int) -> list[Any]:
        """Many who ask for the same at once: what each of them gets."""

        async def ask(n: int) -> Any:
            waiting = f"{os.getpid()} {n}"
            call = await self.start(function, argument, key=key, waiting=waiting)
            view = await self._until(call, lambda view: view.is_over)
            self._engine.let_go(waiting, handed=True)
            return view.result

        return await asyncio.gather(*(ask(n) for n in range(count)))

    async def end(self, call: str) -> dict[str, Any]:
        return shown(await self._until(call, lambda view: view.is_over))

    async def seen(self, call: str, status: str) -> dict[str, Any]:
        return shown(await self._until(call, lambda view: view.status == status))

    async def _until(self, call: str, wanted: Callable[[CallView], bool]) -> CallView:
        async for view in self._engine.watch(call):
            if wanted(view):
                return view
        raise AssertionError("the call ended without being seen like that")

    async def get(self, call: str) -> dict[str, Any]:
        return shown(await self._engine.get(call))

    async def events(self, call: str) -> list[str]:
        return [type(event).__name__ for event in await self._engine.journal(call)]

    async def signal(self, call: str, name: str, value: Any) -> None:
        await self._engine.deliver(call, Signal(name, json.dumps(value).encode()))

    async def cancel(self, call: str, reason: str = "") -> None:
        await self._engine.deliver(call, Cancel(reason))

    async def release(self, call: str) -> None:
        await self._engine.release(call)

    async def retry(self, call: str) -> str:
        return (await self._engine.retry(call)).call_id

    async def open(self, gate: str) -> None:
        self._world.gates[gate].set()

    async def in_memory(self) -> list[str]:
        worker = self._engine.worker
        return [] if worker is None else list(worker.live)

    async def cpu(self) -> float:
        """Seconds of CPU that all threads of this process have used."""
        return time.process_time()

    async def load(self, seed: int, width: int) -> None:
        """Begin calls of all kinds without an end, so many at once; each acknowledgement is said."""
        self._load = Load(self._engine, self._functions, seed, say)
        self._load.begin(width)

    async def stop_load(self) -> None:
        """What was begun is left to itself; it is on disk when this is answered."""
        if self._load is not None:
            self._load.stop()
        await self._engine.store("any", SetEntry("", "key", b"1"))  # writes take effect in their order

    async def settle(self) -> list[dict[str, Any]]:
        """Bring every call in the file to its end: how it ended, and the outcomes in its journal by step."""
        return [await self._settled(view) for view in await self._all_calls()]

    async def _all_calls(self) -> list[CallView]:
        page = await self._engine.find(Query())
        calls = page.calls
        while page.next is not None:
            page = await self._engine.find(Query(after=page.next))
            calls += page.calls
        return calls

    async def _settled(self, view: CallView) -> dict[str, Any]:
        if view.status == "stuck":  # too many deaths while one of its steps ran
            await self._engine.retry(view.id)
        with suppress(CallEnded):
            if view.tool == "collects":
                await self.signal(view.id, "item", "stop")
            if view.tool == "patient":
                await self.cancel(view.id, "enough")
        end = await self._until(view.id, lambda view: view.is_over)
        steps = [event for event in await self._engine.journal(view.id) if isinstance(event, StepReturned)]
        recorded = {idempotency_key(view.id, step.key): json.loads(step.value) for step in steps}
        return shown(end) | {"tool": view.tool, "recorded": recorded}

    async def leave(self) -> None:
        self._world.gates["leaving"].set()


def shown(view: CallView) -> dict[str, Any]:
    return {"call": view.id, "status": view.status, "result": view.result, "error": view.error}


async def main(database: str, effects: str, role: Role) -> None:
    engine = Embedded(database, grace=timedelta(seconds=role.grace))
    world = World(Path(effects), engine, be_quiet if role.quiet else say)
    await Actor(engine, world).live(role)


if __name__ == "__main__":
    part = Role(**json.loads(sys.argv[3]))
    with asyncio.Runner(loop_factory=DeafLoop if part.deaf else None) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], part))
