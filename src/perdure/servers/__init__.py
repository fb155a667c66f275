"""The servers that ship with perdure, by the names that `perdure run` knows them under."""

from __future__ import annotations

SHIPPED = {
    "weather": "perdure.servers.weather",
    "climate": "perdure.servers.climate",
    "invoice": "perdure.servers.invoice",
}
"""Each module has its server as `mcp`. Nothing is imported before it is asked for."""
