"""Which test asks which client, over which transport, and where its server is killed; or why none does.

The rows with tasks are in `test_tasks` and `test_legacy_tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Client = Literal["stateless", "sessions", "cannot be asked"]
Place = Literal["nowhere", "between question and answer", "between answer and result", "between result and reply"]

CLIENTS: tuple[Client, ...] = ("stateless", "sessions", "cannot be asked")
PLACES: tuple[Place, ...] = (
    "nowhere",
    "between question and answer",
    "between answer and result",
    "between result and reply",
)
TRANSPORTS = ("memory", "stdio", "sse", "json")

WIRE, KILLS = "test_questions_wire", "test_questions_kills"

ALIVE = f"{WIRE}::test_a_question_is_asked_and_its_answer_goes_on"
CANNOT = f"{WIRE}::test_a_client_that_cannot_be_asked_is_told_so"

KILLED: dict[tuple[Client, Place], str] = {
    ("stateless", "between question and answer"): f"{KILLS}::test_between_question_and_answer_the_state_leads_back",
    ("stateless", "between answer and result"): f"{KILLS}::test_between_answer_and_result_the_same_state_gets_it",
    ("stateless", "between result and reply"): (
        f"{KILLS}::test_after_the_result_and_before_the_reply_the_same_state_gets_it"
    ),
    ("sessions", "between question and answer"): (
        f"{KILLS}::test_between_question_and_answer_the_next_request_is_asked_again"
    ),
    ("sessions", "between answer and result"): f"{KILLS}::test_between_answer_and_result_nobody_is_asked_again",
    ("sessions", "between result and reply"): (
        f"{KILLS}::test_after_the_result_and_before_the_reply_nobody_is_asked_again"
    ),
}

NO_DEATH = "a server in memory dies with its client"
NO_WAY_BACK = "it has no way to be asked: the row below"
NO_REQUEST = "no request is asked anything: the call that waits is any other, see tests/engines/test_questions.py"


@dataclass(frozen=True)
class Test:
    name: str
    parameters: tuple[str, ...]


def cell(client: Client, transport: str, place: Place) -> Test | str:
    """The test, or why there is none."""
    if client == "cannot be asked":
        if place != "nowhere":
            return NO_REQUEST
        if transport == "json":
            return Test(f"{WIRE}::test_a_session_without_a_way_back_cannot_ask", (transport, "sessions"))
        return Test(CANNOT, (transport, "sessions"))
    if client == "sessions" and transport == "json":
        return NO_WAY_BACK
    if place == "nowhere":
        return Test(ALIVE, (transport, client))
    if transport == "memory":
        return NO_DEATH
    return Test(KILLED[client, place], (transport,))
