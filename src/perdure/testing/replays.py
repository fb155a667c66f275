"""`replays`: a call's journal, replayed by another process with another hash seed."""
from __future__ import annotations
from typing import Any
async def replays(mcp: Any, call_id: str) -> None: ...
