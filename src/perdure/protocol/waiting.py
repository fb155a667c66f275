"""One request that waits for its call, and what it hears until then. All of it is sent from the request's own task.

So a client that does not read holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from math import inf

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import CallView, Engine, Question, QuestionKind
from perdure.protocol.asking import Asking
from perdure.protocol.conversation import Conversation
from perdure.protocol.progress import Pulse
from perdure.protocol.replies import Finished, HandedOff, Handoff, NeedsInput, Reply


class Waiting:
    """`handoff`: another way to the answer, if there is one."""

    def __init__(self, conversation: Conversation, handoff: Handoff | None = None) -> None:
        self._conversation = conversation
        self._handoff_after = None if handoff is None else handoff.after
        self._answerable = frozenset[QuestionKind]() if handoff is None else handoff.answerable - conversation.asks
        """What can be answered on that way, though not by this client."""
        self._asking: dict[str, Asking] = {}
        self._news: list[SendLog | NotifyChange] = []
        self._stop: Exception | None = None
        self._views: AsyncIterator[CallView] | None = None
        self._scope: asyncio.Timeout | None = None

    def tell(self, what: SendLog | NotifyChange) -> None:
        """Something for the client to hear, in order."""
        self._news.append(what)
        self._wake()

    def stop(self, why: Exception) -> None:
        """Wait no longer: `until_settled` raises this."""
        self._stop = why
        self._wake()

    def _wake(self) -> None:
        # Its time is up at once: waiting for two things costs no task and no event where only one of them happens.
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def until_settled(self, engine: Engine, call_id: str, answered: Collection[str] = ()) -> Reply:
        """What there is to say to the request; of the questions that it `answered` the call may not have heard yet."""
        if self._handoff_after == timedelta(0):
            return HandedOff(await engine.get(call_id))
        clock = engine.request_clock
        handoff_at = inf if self._handoff_after is None else clock.now() + self._handoff_after.total_seconds()
        handoff = None if self._handoff_after is None else clock.alarm(handoff_at, self._wake)
        try:
            return await self._until_settled(engine, call_id, answered, handoff_at)
        finally:
            self._views = None
            if handoff is not None:
                handoff.cancel()
            for asking in self._asking.values():
                asking.withdraw()

    async def _until_settled(self, engine: Engine, call_id: str, answered: Collection[str], handoff_at: float) -> Reply:
        clock = engine.request_clock
        pulse = Pulse(self._conversation, clock.now())
        view: CallView | None = None
        while True:
            if not self._news and self._stop is None:
                view = await self._next_view(engine, call_id, view, pulse)
            await self._say_news()
            if pulse.has_news or clock.now() >= pulse.due:
                await pulse.beat(clock.now())
            if view is not None:
                reply = await self._reply_to(engine, view, answered)
                if reply is not None:
                    return reply
            if self._stop is not None:
                await self._withdraw()
                raise self._stop
            if clock.now() >= handoff_at:
                await self._withdraw()
                return HandedOff(await engine.get(call_id))

    async def _next_view(self, engine: Engine, call_id: str, view: CallView | None, pulse: Pulse) -> CallView | None:
        """A newer one than `view`, or the same when something else is due."""
        if self._views is None:
            self._views = engine.watch(call_id, -1 if view is None else view.version)
        scope = self._scope = asyncio.timeout(None)
        sign = engine.request_clock.alarm(pulse.due, self._wake, skippable=True)
        try:
            async with scope:
                return await self._next_to_tell(self._views, pulse)
        except TimeoutError:
            if not scope.expired():
                raise
            self._views = None  # the interrupted one has ended
            return view
        finally:
            sign.cancel()
            self._scope = None

    async def _reply_to(self, engine: Engine, view: CallView, answered: Collection[str]) -> Reply | None:
        """What a look at the call makes of the request; None when it waits on, and its client is asked meanwhile."""
        if _is_settled(view):
            await self._settle()
            return Finished(view)
        open_questions = self._open(view, answered)
        if open_questions and self._conversation.asks_by_reply:
            return NeedsInput(view, open_questions)
        if not open_questions and any(each.kind in self._answerable for each in view.questions):
            return HandedOff(await engine.get(view.id))
        await self._ask(engine, view.id, open_questions)
        return None

    async def _next_to_tell(self, views: AsyncIterator[CallView], pulse: Pulse) -> CallView:
        """The next view of which the client hears."""
        async for view in views:
            if pulse.follow(view) or _is_settled(view) or view.questions or self._asking:
                return view
        raise AssertionError("a watch ended before its call")

    # --- questions ---

    def _open(self, view: CallView, answered: Collection[str]) -> tuple[Question, ...]:
        """What the client is to answer, and has not."""
        asks = self._conversation.asks
        return tuple(each for each in view.questions if each.kind in asks and each.name not in answered)

    async def _ask(self, engine: Engine, call_id: str, questions: tuple[Question, ...]) -> None:
        """Each once, while the request waits; what was answered elsewhere need not be answered here any more."""
        for name in self._asking.keys() - {question.name for question in questions}:
            if not self._asking[name].is_answered:
                await self._asking[name].settle()
        for question in questions:
            asking = self._asking.get(question.name)
            if asking is None:
                asking = self._asking[question.name] = Asking(self._conversation, question)
            elif asking.is_recorded:
                continue
            asking.begin(engine, call_id)

    async def _withdraw(self) -> None:
        """Nothing is asked here any more; the call may ask elsewhere."""
        for asking in self._asking.values():
            await asking.be_withdrawn()

    async def _settle(self) -> None:
        """Nothing is asked any more, and the client knows it before it has the answer to its request."""
        for asking in self._asking.values():
            await asking.settle()

    async def _say_news(self) -> None:
        while self._news:
            what = self._news.pop(0)
            if isinstance(what, SendLog):
                await self._conversation.log(what)
            else:
                await self._conversation.changed(what)


def _is_settled(view: CallView) -> bool:
    return view.is_over or view.status == "stuck"
