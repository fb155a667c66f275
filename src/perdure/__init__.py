"""Durable MCP servers for Python: an accepted tool call runs to its end, whatever happens to its process.

What is exported here is the public API; every other module may change.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.server.mcpserver.exceptions import ToolError

    from perdure.calls import Call, Calls
    from perdure.context import DurableContext, StepInfo, current_step
    from perdure.core.call import Status
    from perdure.core.retry import Retry, TryAgain
    from perdure.engine import CallView, Engine, Page, Principal, Question, TimelineEntry
    from perdure.engines.embedded.engine import Embedded
    from perdure.errors import (
        AlreadyAnswered,
        CallEnded,
        CallFailed,
        CallNotFound,
        Conflict,
        Diverged,
        EffectOutsideStep,
        InputUnavailable,
        NetworkFileSystem,
        NotRecordable,
        OutcomeUnknown,
        PayloadTooLarge,
        PerdureError,
        SchemaTooNew,
        StepFailed,
        StepOutsideBody,
        StorageCorrupt,
        StorageError,
        StorageFull,
        Stuck,
    )
    from perdure.job import Job
    from perdure.question import Sampled
    from perdure.sampler import OpenAISampler, Sampler
    from perdure.server import DurableMCP
    from perdure.signal import Signal
    from perdure.step import Step, step
    from perdure.store import Store
    from perdure.tool import CallOptions

# Imported when first used: a command line that only reads a file needs neither the SDK nor the engine's code.
_HOMES = {
    "mcp.server.mcpserver.exceptions": ("ToolError",),
    "perdure.calls": ("Call", "Calls"),
    "perdure.context": ("DurableContext", "StepInfo", "current_step"),
    "perdure.core.call": ("Status",),
    "perdure.core.retry": ("Retry", "TryAgain"),
    "perdure.engine": ("CallView", "Engine", "Page", "Principal", "Question", "TimelineEntry"),
    "perdure.engines.embedded.engine": ("Embedded",),
    "perdure.errors": (
        "AlreadyAnswered",
        "CallEnded",
        "CallFailed",
        "CallNotFound",
        "Conflict",
        "Diverged",
        "EffectOutsideStep",
        "InputUnavailable",
        "NetworkFileSystem",
        "NotRecordable",
        "OutcomeUnknown",
        "PayloadTooLarge",
        "PerdureError",
        "SchemaTooNew",
        "StepFailed",
        "StepOutsideBody",
        "StorageCorrupt",
        "StorageError",
        "StorageFull",
        "Stuck",
    ),
    "perdure.job": ("Job",),
    "perdure.question": ("Sampled",),
    "perdure.sampler": ("OpenAISampler", "Sampler"),
    "perdure.server": ("DurableMCP",),
    "perdure.signal": ("Signal",),
    "perdure.step": ("Step", "step"),
    "perdure.store": ("Store",),
    "perdure.tool": ("CallOptions",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take any name to be here

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value


class _Package(ModuleType):
    """Where `step` stays the decorator: the import of the module of that name would take its place."""

    @property
    def step(self) -> Any:
        return import_module("perdure.step").step

    @step.setter
    def step(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AlreadyAnswered",
    "Call",
    "CallEnded",
    "CallFailed",
    "CallNotFound",
    "CallOptions",
    "CallView",
    "Calls",
    "Conflict",
    "Diverged",
    "DurableContext",
    "DurableMCP",
    "EffectOutsideStep",
    "Embedded",
    "Engine",
    "InputUnavailable",
    "Job",
    "NetworkFileSystem",
    "NotRecordable",
    "OpenAISampler",
    "OutcomeUnknown",
    "Page",
    "PayloadTooLarge",
    "PerdureError",
    "Principal",
    "Question",
    "Retry",
    "Sampled",
    "Sampler",
    "SchemaTooNew",
    "Signal",
    "Status",
    "Step",
    "StepFailed",
    "StepInfo",
    "StepOutsideBody",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "Store",
    "Stuck",
    "TimelineEntry",
    "ToolError",
    "TryAgain",
    "current_step",
    "step",
]
