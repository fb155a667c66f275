"""What a client is told when a call does not complete. Anticipated failures keep their words; crashes do not.

The SDK hides the text of everything but `ToolError`, `ResourceError` and `MCPError`; here the errors of our own
that are meant for clients join them.
"""

from __future__ import annotations

from mcp.server.mcpserver.exceptions import (
    ResourceError,
    ToolError,
    UnexpectedResourceError,
    UnexpectedToolError,
)
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent

from perdure.core.codec import decode_error, error_message, error_type
from perdure.engine import CallView
from perdure.errors import FOR_CLIENTS, CallFailed, Refused, Stuck


class Cancelled(Exception):
    """A call was cancelled; its message is for the client."""


def failure_of(view: CallView) -> Exception:
    """What a call that did not complete is to its request. What is not anticipated names the call, for the log."""
    assert view.failure is not None
    if view.status == "stuck":
        # Why it is stuck quotes code and arguments: that is for the operator.
        return Stuck(view.id, "it needs an operator.")
    if view.status == "cancelled":
        return Cancelled(f"The call was {error_message(view.failure)}.")
    error = decode_error(view.failure)
    if isinstance(error, (ToolError, ResourceError, MCPError, *FOR_CLIENTS)):
        return error
    return CallFailed(view.id, error_type(view.failure), error_message(view.failure))


def for_client(error: Exception) -> str | None:
    """The words of one of our own errors, if they are meant for clients."""
    return str(error) if isinstance(error, (Cancelled, *FOR_CLIENTS)) else None


# --- as the SDK has it, for each kind of function -------------------------------------------------


def tool_error(tool: str, error: Exception) -> Exception:
    """Becomes an `is_error` result, or the protocol error that was raised."""
    prefix = f"Error executing tool {tool}"
    match error:
        case MCPError():
            return error
        case UnexpectedToolError() | UnexpectedResourceError():
            return UnexpectedToolError(f"{prefix}: {error}")
        case ToolError() | ResourceError():
            return ToolError(f"{prefix}: {error}")
        case _ if (words := for_client(error)) is not None:
            return ToolError(f"{prefix}: {words}")
        case CallFailed():
            return ToolError(prefix)  # in the log already, where it happened: the SDK would log this one as a crash
        case _:
            return UnexpectedToolError(prefix)


def error_result(error: Exception) -> CallToolResult:
    """What the SDK answers for an error of a tool. Raises one of the protocol."""
    if isinstance(error, MCPError):
        raise error
    return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)


def resource_error(error: Exception) -> Exception:
    words = for_client(error)
    return error if words is None else ResourceError(words)


def prompt_error(error: Exception) -> Exception:
    words = for_client(error)
    if words is None:
        return error
    return MCPError(code=INVALID_PARAMS if isinstance(error, Refused) else INTERNAL_ERROR, message=words)
