"""Functions for these tests. Each of their effects is a line in a file that outlives every process."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from perdure.effects import Effects, running_frame
from perdure.engine import Function
from perdure.engines.embedded.engine import Embedded
from tests.engines.functions import ANY, body, child_ask, step, whole


@dataclass(frozen=True)
class Effect:
    """A step began or ended: in which process, in which claim of its call. Times are the machine's monotonic ones."""

    what: str
    at: float
    pid: int
    epoch: int
    call: str
    name: str
    key: str
    attempt: int
    token: str


class World:
    """What one process has: a file that it shares with the others, gates of its own, somebody who listens."""

    def __init__(self, effects: Path, engine: Embedded, say: Callable[..., None]) -> None:
        self._file = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._engine = engine
        self.say = say
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def note(self, what: str, token: str) -> None:
        frame = running_frame.get()
        assert frame is not None
        assert frame.call_id is not None
        worker = self._engine.worker
        call = None if worker is None else worker.live.get(frame.call_id)
        epoch = -1 if call is None else call.held.epoch
        effect = Effect(
            what,
            time.monotonic(),
            os.getpid(),
            epoch,
            frame.call_id,
            frame.name,
            frame.idempotency_key,
            frame.attempt,
            token,
        )
        os.write(self._file, json.dumps(effect.__dict__).encode() + b"\n")
        self.say(what, call=frame.call_id, name=frame.name, key=frame.idempotency_key, pid=os.getpid())

    async def act(self, seconds: float = 0.0) -> str:
        """The outcome names this very run."""
        token = uuid4().hex
        self.note("began", token)
        await asyncio.sleep(seconds)
        self.note("ended", token)
        return token

    async def hold(self, gate: str) -> str:
        """Runs until its process is told to open the gate."""
        token = uuid4().hex
        self.note("began", token)
        await self.gates[gate].wait()
        self.note("ended", token)
        return token

    async def linger(self, seconds: float) -> str:
        """Still takes some seconds when its process is told to leave."""
        token = uuid4().hex
        self.note("began", token)
        await self.gates["leaving"].wait()
        await asyncio.sleep(seconds)
        self.note("ended", token)
        return token

    async def fork(self) -> int:
        """Leaves a child behind that outlives us: its pid."""
        child = os.fork()
        if child == 0:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for inherited in (0, 1, 2):
                os.dup2(nowhere, inherited)  # the test sees the end of a process by the end of its pipes
            time.sleep(600)
            os._exit(0)
        self.say("forked", child=child)
        return child


def read_effects(path: Path) -> list[Effect]:
    return [Effect(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def functions(world: World) -> dict[str, Function]:
    """By name; each body takes one JSON argument."""

    async def one(effects: Effects, seconds: float) -> str:
        return await step(effects, world.act, seconds, name="only")

    async def ten(effects: Effects, _: Any) -> list[str]:
        return [await step(effects, world.act, name=f"step {n}") for n in range(10)]

    async def sure(effects: Effects, seconds: float) -> str:
        return await step(effects, world.act, seconds, name="at most once", at_most_once=True)

    async def naps(effects: Effects, seconds: float) -> list[str]:
        done: list[str] = []
        for n in range(3):
            await asyncio.sleep(seconds)
            done.append(await step(effects, world.act, name=f"after nap {n}"))
        return done

    async def collects(effects: Effects, _: Any) -> list[Any]:
        got: list[Any] = []
        while (value := await effects.receive("item", ANY.decode)) != "stop":
            got.append(value)
            await step(effects, world.act, name=f"item {value}")
        return got

    async def patient(effects: Effects, _: Any) -> None:
        try:
            await effects.receive("never", ANY.decode)
        except asyncio.CancelledError:
            await step(effects, world.act, name="clean up")
            raise

    async def family(effects: Effects, seconds: float) -> list[str]:
        one_of_many = child_ask(made["one"], seconds)
        return list(await asyncio.gather(*(effects.child(one_of_many, ANY.decode) for _ in range(3))))

    async def watched(effects: Effects, gate: str) -> list[str]:
        try:
            return [await step(effects, world.hold, gate, name="held"), await step(effects, world.act, name="next")]
        except BaseException as error:
            world.say("left", how=type(error).__name__)
            raise

    async def careful(effects: Effects, seconds: float) -> str:
        return await step(effects, world.linger, seconds, name="at most once", at_most_once=True)

    async def lingers(effects: Effects, seconds: float) -> list[str]:
        return [await step(effects, world.linger, seconds, name="lingers"), await step(effects, world.act, name="next")]

    async def forks(effects: Effects, gate: str) -> str:
        await step(effects, world.fork)
        return await step(effects, world.hold, gate, name="held")

    async def whole_one(seconds: float) -> str:
        return await world.act(seconds)

    async def whole_again(seconds: float) -> str:
        return await world.act(seconds)

    async def whole_lingers(seconds: float) -> str:
        return await world.linger(seconds)

    bodies = [one, ten, sure, naps, collects, patient, family, watched, careful, lingers, forks]
    made = {main.__name__: body(main, check=False) for main in bodies}
    for run, rerun in [(whole_one, False), (whole_again, True), (whole_lingers, False)]:
        made[run.__name__] = whole(run, rerun=rerun)
    return made
