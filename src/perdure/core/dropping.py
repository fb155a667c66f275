"""How a coroutine is made to leave memory: it gets `Parked` where it waits, until it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from types import AsyncGeneratorType
from typing import Any

from perdure.errors import Parked

PATIENCE = 8
"""How often a coroutine is asked to leave before it is set aside."""

log = logging.getLogger("perdure")


def expel(coroutine: Any, context: Context, call_id: str) -> KeyboardInterrupt | None:
    """Runs the coroutine's `finally` blocks, as far as they do not wait. The interrupt is one that came meanwhile."""
    return _ask_to_leave(lambda: context.run(coroutine.throw, Parked()), coroutine, call_id)


def expel_generator(generator: AsyncGeneratorType[Any, Any], call_id: str) -> KeyboardInterrupt | None:
    leaving = _leave(generator)
    interrupt = None
    try:
        leaving.send(None)
    except KeyboardInterrupt as error:
        interrupt = error
    except BaseException:
        pass
    else:  # it waits for something
        interrupt = _ask_to_leave(lambda: leaving.throw(Parked()), leaving, call_id)
    if generator.ag_frame is not None:
        _set_aside(generator, call_id)
    return interrupt


async def _leave(generator: AsyncGeneratorType[Any, Any]) -> None:
    for _ in range(PATIENCE):
        await generator.athrow(Parked())  # one that goes on yields


def _ask_to_leave(throw: Callable[[], object], coroutine: object, call_id: str) -> KeyboardInterrupt | None:
    for _ in range(PATIENCE):
        try:
            throw()
        except KeyboardInterrupt as error:
            return error
        except BaseException:
            return None  # it left: by Parked, by its return, by whatever its clean-up raised
    _set_aside(coroutine, call_id)
    return None


def _set_aside(thing: object, call_id: str) -> None:
    log.error("call %s: %r swallows Parked and will not leave memory; it is set aside", call_id, thing)
    import ctypes

    # A reference that nobody gives back. Whoever freed it would throw GeneratorExit into it: the collector, on any
    # thread and in any other body; the interpreter at its end, which one that swallows everything would keep for ever.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
