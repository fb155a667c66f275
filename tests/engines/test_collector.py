"""What the garbage collector need not look at while calls are served."""

from __future__ import annotations

import gc
from pathlib import Path

from perdure.engines.embedded.engine import Embedded


async def test_what_was_there_before_is_spared_while_the_first_of_several_engines_serves(tmp_path: Path) -> None:
    assert gc.get_freeze_count() == 0
    async with Embedded(tmp_path / "one.sqlite").serve(()):
        spared = gc.get_freeze_count()
        assert spared > 0
        async with Embedded(tmp_path / "two.sqlite").serve(()):
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


async def test_what_somebody_else_has_frozen_stays_so(tmp_path: Path) -> None:
    gc.freeze()
    try:
        async with Embedded(tmp_path / "one.sqlite").serve(()):
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
