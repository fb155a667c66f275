"""What one feed of a body comes to: what one commit writes of it, and what is done when that is on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from perdure.core import commands as c
from perdure.core.call import Status
from perdure.core.events import Answered, End, Event, Marked
from perdure.engine import Progress
from perdure.engines.embedded.journal import Append

Awaited = c.AwaitEnd | c.AwaitAnswer


@dataclass(slots=True, eq=False, repr=False)
class Unit:
    at: float
    events: tuple[Event, ...] = ()
    consumed: tuple[int, ...] = ()
    """The rows of the inbox that the events came from."""
    status: c.SetStatus | None = None
    progress: Progress | None = None
    unfollowed: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    gives_way: bool = False
    """To an answer that came meanwhile."""
    unsent: tuple[str, ...] = ()
    abandoned: tuple[str, ...] = ()
    """Asks that the body gave up."""
    held: list[c.Command] = field(default_factory=list[c.Command])
    """Performed when the unit is on disk."""
    undecided: list[c.Decided] = field(default_factory=list[c.Decided])
    """Asks that are units of their own."""
    finish: c.Finish | None = None

    def fold(self, commands: Iterable[c.Command]) -> None:
        for command in commands:
            match command:
                case c.RunStep() | c.SetTimer() | c.DropTimer() | c.SendLog() | c.NotifyChange():
                    self.held.append(command)
                case c.Complete() | c.Fail() | c.EndCancelled() | c.ContinueAs():
                    self.finish = command
                case c.UseStore() | c.StartChild() | c.JoinCall() | c.AskQuestion():
                    self.undecided.append(command)
                case c.Abandon():
                    self.abandoned += (command.key,)
                    self.held.append(command)
                case c.Mark():
                    self.events += (Marked(command.key, command.change, self.at),)
                case c.SetStatus():
                    self.status = command
                case c.ReportProgress():
                    self.progress = Progress(command.progress, command.total, command.message)

    def give_up(self, ask: Awaited) -> None:
        """The body waits for it no more, and nobody else of the call does."""
        match ask:
            case c.AwaitAnswer():
                self.withdrawn += (ask.key,)
            case c.AwaitEnd():
                self.unfollowed += (ask.key,)

    @property
    def writes(self) -> bool:
        return bool(
            self.events
            or self.consumed
            or self.status
            or self.progress
            or self.unfollowed
            or self.withdrawn
            or self.unsent
        )

    def without_events(self) -> Unit:
        """What was said and given up, where the events go another way."""
        return replace(self, events=(), consumed=(), held=[])

    @property
    def changes_questions(self) -> bool:
        return bool(self.withdrawn) or (bool(self.events) and type(self.events[0]) is Answered)

    def shown(self) -> dict[str, Any]:
        """What of it is seen of the call."""
        shown: dict[str, Any] = {}
        if self.status is not None:
            shown = {"text": self.status.text, "status_data": self.status.data}
        if self.progress is not None:
            shown["progress"] = self.progress
        return shown

    def append(self, n: int, epoch: int, status: Status, end: End | None = None, *, keeps_key: bool = False) -> Append:
        said = self.status
        return Append(
            n=n,
            epoch=epoch,
            at=self.at,
            events=self.events,
            status=status,
            consumed=self.consumed,
            status_text=None if said is None else said.text,
            status_data=None if said is None else said.data,
            progress=self.progress,
            end=end,
            unfollowed=self.unfollowed,
            withdrawn=self.withdrawn,
            gives_way=self.gives_way,
            unsent=self.unsent,
            keeps_key=keeps_key,
        )
