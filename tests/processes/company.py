"""Processes that share one file, as tests have them, and what is true of their effects."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.processes.world import Effect, read_effects

PATIENCE = 30.0
"""Seconds that anything may take on a busy machine; what comes late fails, what comes early is not waited for."""

LONGEST_REPLY = 64 * 1024 * 1024

ROOT = Path(__file__).parents[2]


class OrderFailed(Exception):
    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error


class Actor:
    """One of the processes: obeys orders, is killed, stopped and continued."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Condition()
        self.said: list[dict[str, Any]] = []
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            heard = json.loads(line)
            if "said" in heard:
                async with self._changed:
                    self.said.append(heard)
                    self._changed.notify_all()
                continue
            reply = self._replies.pop(heard["number"])
            if reply.done():
                continue
            if "error" in heard:
                reply.set_exception(OrderFailed(heard["error"], heard["message"]))
            else:
                reply.set_result(heard["reply"])

    def order(self, do: str, **order: Any) -> asyncio.Future[Any]:
        """Give an order; its reply comes when it comes, also if nobody waits."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"number": number, "do": do, **order}).encode() + b"\n")
        return reply

    async def ask(self, do: str, **order: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await self.order(do, **order)

    async def says(self, what: str, **more: Any) -> dict[str, Any]:
        """What it says, or has said, of this kind; the first."""

        def fits(said: dict[str, Any]) -> bool:
            return said["said"] == what and more.items() <= said.items()

        try:
            async with asyncio.timeout(PATIENCE), self._changed:
                await self._changed.wait_for(lambda: any(map(fits, self.said)))
        except TimeoutError:
            raise AssertionError(f"process {self.pid} never said {what} {more}, but {self.said}") from None
        return next(filter(fits, self.said))

    async def kill(self) -> list[dict[str, Any]]:
        """All that it has said before it died."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening
        return self.said

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def leave(self) -> None:
        """Go in good order."""
        self.order("leave")
        await self.says("has left")
        await self.is_gone()

    async def is_gone(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert await self._process.wait() == 0
            await self._listening


class Company:
    """The processes of one test, on one file."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.database = folder / "calls.sqlite"
        self._effects = folder / "effects"
        self._stack = stack

    async def start(self, **role: Any) -> Actor:
        return await self._stack.enter_async_context(self._acting(role))

    async def several(self, count: int, **role: Any) -> list[Actor]:
        return list(await asyncio.gather(*(self.start(**role) for _ in range(count))))

    @property
    def effects(self) -> list[Effect]:
        return read_effects(self._effects)

    def began(self, call: str, name: str = "held") -> list[Effect]:
        """Each time that a step of the call began."""
        return [e for e in self.effects if (e.call, e.name, e.what) == (call, name, "began")]

    async def events_of(self, actor: Actor, call: str) -> list[str]:
        """The kinds of events in the call's journal, without those that only tell the time."""
        return [kind for kind in await actor.ask("events", call=call) if kind != "Resumed"]

    async def until(self, seen: Callable[[], bool]) -> None:
        """What only the file of effects shows."""
        async with asyncio.timeout(PATIENCE):
            while not seen():
                await asyncio.sleep(0.01)

    async def until_true(self, ask: Callable[[], Awaitable[Any]]) -> None:
        """What a process says only when it is asked."""
        async with asyncio.timeout(PATIENCE):
            while not await ask():
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def _acting(self, role: dict[str, Any]) -> AsyncGenerator[Actor]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.processes.actor",
            str(self.database),
            str(self._effects),
            json.dumps(role),
            stdin=PIPE,
            stdout=PIPE,
            limit=LONGEST_REPLY,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        actor = Actor(process)
        try:
            await actor.says("ready")
            yield actor
        finally:
            await actor.kill()


def never_two_at_once(effects: list[Effect], killed: Collection[int] = ()) -> None:
    """No step of a call begins while another process, that lives, still runs it."""
    running: dict[str, Effect] = {}
    for effect in sorted(effects, key=lambda effect: effect.at):
        former = running.get(effect.key)
        if effect.what == "began":
            assert former is None or former.pid in killed, (former, effect)
            running[effect.key] = effect
        elif former is not None and former.token == effect.token:
            del running[effect.key]
