"""What a client can be asked, and the replies that ask it."""

from __future__ import annotations

from mcp.server.mcpserver.exceptions import ResourceError
from mcp_types import ClientCapabilities, InputRequiredResult

from perdure.engine import QuestionKind
from perdure.protocol.inputs import input_requests
from perdure.protocol.replies import NeedsInput


def asks_of(capabilities: ClientCapabilities | None) -> frozenset[QuestionKind]:
    """What a client that declared these can be asked."""
    asks = set[QuestionKind]()
    if capabilities is not None and (elicitation := capabilities.elicitation) is not None:
        # Before there were modes, `elicitation: {}` was all there was, and meant forms.
        if elicitation.form is not None or elicitation.url is None:
            asks.add("form")
        if elicitation.url is not None:
            asks.add("url")
    if capabilities is not None and capabilities.sampling is not None:
        asks.add("sampling")
    return frozenset(asks)


def input_required(reply: NeedsInput) -> InputRequiredResult:
    """The state is the call's id, which the SDK seals on its way out."""
    requests = input_requests(reply.questions)
    return InputRequiredResult.model_validate({"inputRequests": requests, "requestState": reply.view.id})


class AskedInstead(ResourceError):
    """Takes a question past the SDK's resources, of which only templates may return one."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__("The resource asks its client something.")
        self.result = result
