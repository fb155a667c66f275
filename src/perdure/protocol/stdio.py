"""Standard input and output as an MCP connection: nothing but protocol on it, and it knows what was written.

The SDK's own transport returns from a write before the bytes are out, and its reader cannot be stopped.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self

import anyio
from mcp.os.win32.utilities import rebind_std_handle_to_fd
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from perdure.protocol.wire import STDIO_PEER, CancelNote, StdioMessage, Wire, read_cancel


def claim_standard_streams() -> tuple[int, int]:
    """Take the protocol's descriptors away from everybody else.

    What anything in the process or its children prints goes to stderr from here on, and they read an empty input.
    """
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    while nothing <= 2:  # the launcher closed some of them: none may be taken for another
        nothing = os.open(os.devnull, os.O_RDWR)
    wires = os.dup(0), os.dup(1)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    for descriptor in 0, 1:
        rebind_std_handle_to_fd(descriptor)  # on Windows children inherit handles, not descriptors
    return wires


_BEHIND_WRITES = 0.05


class _Write(NamedTuple):
    data: bytes
    done: asyncio.Future[None]
    answered: RequestId | None


class Stdio:
    """A connection over two descriptors, each with a thread: pipes and consoles have no other way everywhere."""

    def __init__(
        self, reader: int, writer: int, *, on_cancel: Callable[[CancelNote], None], on_closed: Callable[[], None]
    ) -> None:
        self.inbox = Inbox()
        self.outbox = Outbox(self)
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._on_cancel = on_cancel
        self._on_closed = on_closed
        self._writes: SimpleQueue[_Write | Callable[[], None]] = SimpleQueue()
        self._unwritten: deque[_Write] = deque()
        self._waiting: dict[RequestId, Wire] = {}
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._has_ended = False
        self._is_broken = False

    def open(self) -> None:
        for work in self._read_lines, self._write_lines:
            threading.Thread(target=work, name=f"perdure-{work.__name__}", daemon=True).start()
        self._notice_a_closed_output()

    async def wait_answered(self) -> None:
        """Wait until no request is open."""
        await self._all_answered.wait()

    def leave(self) -> None:
        """The client is gone, and all that it waited for with it."""
        for wire in list(self._waiting.values()):
            wire.leave()

    # The way in.

    def _read_lines(self) -> None:
        try:
            with os.fdopen(self._reader, "rb", closefd=False) as lines:
                for line in lines:
                    self._loop.call_soon_threadsafe(self._arrived, line)
        except OSError:
            pass  # a terminal that hung up
        except RuntimeError:
            return  # the loop is closed: the process ends
        self._tell_loop(self._input_ends)

    def _arrived(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError as error:
            self.inbox.put(error)
            return
        match message:
            case JSONRPCRequest():
                self.inbox.put(SessionMessage(message, self._await_answer(coerce_request_id(message.id))))
                return
            case JSONRPCNotification(method="notifications/cancelled"):
                # Seen here before the SDK cancels the handler for it.
                if (note := read_cancel(STDIO_PEER, message.params)) is not None:
                    self._on_cancel(note)
            case _:
                pass
        self.inbox.put(SessionMessage(message, StdioMessage()))

    def _await_answer(self, request_id: RequestId) -> StdioMessage:
        self._waiting[request_id] = wire = Wire()
        self._all_answered.clear()

        async def is_unanswered() -> None:
            self._settle(request_id, handed=False)

        return StdioMessage(wire=wire, on_request_unanswered=is_unanswered)

    def _settle(self, request_id: RequestId, *, handed: bool) -> None:
        wire = self._waiting.pop(request_id, None)
        if wire is not None:
            wire.close(handed=handed)
        if not self._waiting:
            self._all_answered.set()

    def _input_ends(self) -> None:
        # Behind what was written before, which was handed; but a client that reads no more must not hold it up.
        self._writes.put(self._input_ended)
        self._loop.call_later(_BEHIND_WRITES, self._input_ended)

    def _input_ended(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self.leave()
        self.inbox.end()
        self._on_closed()

    # The way out.

    async def write(self, item: SessionMessage) -> None:
        """Returns when it is written. It will be, even if the task that asks is cancelled meanwhile."""
        if self._is_broken:
            raise anyio.BrokenResourceError
        message = item.message
        answered = None
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            answered = coerce_request_id(message.id)
        data = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        write = _Write(data, self._loop.create_future(), answered)
        self._unwritten.append(write)
        self._writes.put(write)
        await write.done

    def _write_lines(self) -> None:
        while True:
            write = self._writes.get()
            if not isinstance(write, _Write):
                self._tell_loop(write)
                continue
            rest = memoryview(write.data)
            try:
                while rest:
                    rest = rest[os.write(self._writer, rest) :]
            except OSError:
                self._tell_loop(self._output_closed)
                return
            self._tell_loop(self._written)

    def _written(self) -> None:
        write = self._unwritten.popleft()
        if write.answered is not None:
            self._settle(write.answered, handed=True)
        if not write.done.done():
            write.done.set_result(None)

    def _output_closed(self) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        for write in self._unwritten:
            if not write.done.done():
                write.done.set_exception(anyio.BrokenResourceError())
        self._all_answered.set()
        self.leave()
        self._on_closed()

    def _notice_a_closed_output(self) -> None:
        """The writer learns of a closed output only when it writes, which may be never."""
        if sys.platform == "win32":
            return
        mode = os.fstat(self._writer).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return

        def stirred() -> None:
            self._loop.remove_reader(self._writer)  # it would be called again and again
            if _has_no_reader(self._writer):
                self._writes.put(self._output_closed)  # behind what was written before: that was handed

        self._loop.add_reader(self._writer, stirred)

    def _tell_loop(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(callback)


def _has_no_reader(descriptor: int) -> bool:
    # A socket whose other end only shut down its writing half is readable too, and still takes output.
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


class Inbox:
    """What came, as the SDK's loop wants to read it."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[SessionMessage | Exception | None] = asyncio.Queue()

    def put(self, item: SessionMessage | Exception) -> None:
        self._items.put_nowait(item)

    def end(self) -> None:
        self._items.put_nowait(None)

    async def receive(self) -> SessionMessage | Exception:
        item = await self._items.get()
        if item is None:
            self.end()
            raise anyio.EndOfStream
        return item

    async def aclose(self) -> None:
        pass

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        pass


class Outbox:
    """What goes out, as the SDK's loop wants to write it; `send` returns when it is written."""

    def __init__(self, stdio: Stdio) -> None:
        self._stdio = stdio

    async def send(self, item: SessionMessage, /) -> None:
        await self._stdio.write(item)

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        pass
