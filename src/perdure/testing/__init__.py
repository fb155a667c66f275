"""What users need to test their durable servers: time that they move, crashes that they choose, stubs for steps.

A trial is the server itself on the engine it has in production, over a journal in memory and a clock of its own.
"""

from __future__ import annotations

from perdure.testing.crashes import crash_everywhere
from perdure.testing.replays import replays
from perdure.testing.stub import Stub
from perdure.testing.trial import Trial, trial

__all__ = ["Stub", "Trial", "crash_everywhere", "replays", "trial"]
