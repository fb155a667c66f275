"""What a stateless client is given to come back with: whose it is, how often it counts, and what it may answer."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Context
from mcp.server.request_state import InvalidRequestState, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    TextContent,
    TextResourceContents,
)
from starlette.requests import HTTPConnection

from perdure import DurableContext, DurableMCP
from perdure.engine import Principal
from perdure.errors import StorageCorrupt
from perdure.protocol.seal import SUFFIX, Seal, key_beside
from tests.protocol.asking import BOUND, MODES, calls_of, text, until, with_key
from tests.protocol.mounted import client_as, mounted
from tests.protocol.questioned import House, Person, house_of, yes
from tests.protocol.questions_server import Approval, QuestionsServer

STATELESS = "2026-07-28"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with house_of(tmp_path, "memory", "stateless") as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncGenerator[Client]:
    async with house.client(Person()) as client:
        yield client


async def a_round(client: Client, tool: str = "pay", arguments: Any = None, **more: Any) -> Any:
    """Without the client's own answers to what it is asked."""
    arguments = {"amount": 3} if arguments is None else arguments
    return await client.session.call_tool(tool, arguments, allow_input_required=True, **more)


async def begun(client: Client, tool: str = "pay", arguments: Any = None, **more: Any) -> str:
    """The state of a request that was asked something."""
    asked = await a_round(client, tool, arguments, **more)
    assert isinstance(asked, InputRequiredResult)
    assert asked.request_state is not None
    return asked.request_state


def refused(error: pytest.ExceptionInfo[MCPError]) -> bool:
    return (error.value.code, error.value.message) == (INVALID_PARAMS, "Invalid or expired requestState")


# --- coming back ----------------------------------------------------------------------------------


async def test_a_question_is_a_form_under_its_name(client: Client) -> None:
    asked = await a_round(client)
    assert isinstance(asked, InputRequiredResult)
    assert asked.input_requests is not None
    request = asked.input_requests["approve"]
    assert isinstance(request, ElicitRequest)
    assert isinstance(request.params, ElicitRequestFormParams)
    assert request.params.message == "Pay 3?"
    assert set(request.params.requested_schema["properties"]) == {"approved", "by"}


async def test_the_state_leads_back_to_the_very_call(house: House, client: Client) -> None:
    first, second = await begun(client), await begun(client)
    assert len(await calls_of(house.mcp)) == 2
    for state, by in ((second, "second"), (first, "first")):
        assert text(await a_round(client, request_state=state, input_responses={"approve": yes(by)})).endswith(by)
    assert len(await calls_of(house.mcp)) == 2


async def test_what_was_not_answered_is_asked_again(client: Client) -> None:
    state = await begun(client, "both", {})
    asked = await a_round(client, "both", {}, request_state=state, input_responses={"bank": yes("bank")})
    assert isinstance(asked, InputRequiredResult)
    assert list(asked.input_requests or {}) == ["boss"]
    answers = {"boss": yes("boss")}
    assert text(await a_round(client, "both", {}, request_state=asked.request_state, input_responses=answers)) == (
        "boss, bank"
    )


async def test_without_an_answer_all_of_it_is_asked_again(client: Client) -> None:
    state = await begun(client)
    asked = await a_round(client, request_state=state)
    assert isinstance(asked, InputRequiredResult)
    assert list(asked.input_requests or {}) == ["approve"]


async def test_names_that_were_never_asked_are_ignored_also_for_what_is_asked_later(client: Client) -> None:
    state = await begun(client, "rounds", {"count": 2})
    answers = {"question": yes("first"), "question-2": yes("too early"), "nothing": yes()}
    asked = await a_round(client, "rounds", {"count": 2}, request_state=state, input_responses=answers)
    assert isinstance(asked, InputRequiredResult)
    assert list(asked.input_requests or {}) == ["question-2"]
    answers = {"question-2": yes("second")}
    result = await a_round(client, "rounds", {"count": 2}, request_state=asked.request_state, input_responses=answers)
    assert text(result) == "first, second"


async def test_answers_that_come_without_a_state_are_to_what_the_new_call_asks(house: House, client: Client) -> None:
    for _ in range(20):  # however soon it asks
        answered = await a_round(client, input_responses={"approve": yes(), "other": yes()})
        assert not isinstance(answered, InputRequiredResult)
    assert len(await calls_of(house.mcp)) == 20


async def test_an_idempotency_key_and_a_state_are_the_same_call(house: House, client: Client) -> None:
    state = await begun(client, meta=with_key("k"))
    answers = {"approve": yes()}
    result = await a_round(client, request_state=state, input_responses=answers, meta=with_key("k"))
    assert text(result) == "paid 3, by ann"
    assert text(await a_round(client, meta=with_key("k"))) == "paid 3, by ann"
    assert len(await calls_of(house.mcp)) == 1


async def test_a_client_that_lost_its_state_comes_back_by_its_idempotency_key(house: House, client: Client) -> None:
    await begun(client, meta=with_key("k"))
    state = await begun(client, meta=with_key("k"))
    assert text(await a_round(client, request_state=state, input_responses={"approve": yes()})) == "paid 3, by ann"
    assert len(await calls_of(house.mcp)) == 1


async def test_the_clients_own_rounds_keep_the_idempotency_key(house: House) -> None:
    async with house.client(Person()) as client:
        for _ in range(2):
            assert text(await client.call_tool("pay", {"amount": 3}, meta=with_key("k"))) == "paid 3, by ann"
    assert house.effects == ["works", "paid 3"]


# --- once -----------------------------------------------------------------------------------------


async def test_the_first_answer_counts_however_often_the_state_comes(house: House, client: Client) -> None:
    state = await begun(client)
    for by in ("ann", "mallory"):
        answers = {"approve": yes(by)}
        assert text(await a_round(client, request_state=state, input_responses=answers)) == "paid 3, by ann"
    assert house.effects == ["works", "paid 3"]


async def test_of_two_answers_that_race_one_wins_and_both_get_its_result(house: House, client: Client) -> None:
    state = await begun(client)
    results = await asyncio.gather(
        *(a_round(client, request_state=state, input_responses={"approve": yes(by)}) for by in ("ann", "bob"))
    )
    assert text(results[0]) == text(results[1])
    assert house.effects == ["works", "paid 3"]


async def test_what_was_answered_elsewhere_needs_no_answer_any_more(house: House, client: Client) -> None:
    state = await begun(client)
    await house.mcp.calls.answer(await house.asks(), {"approved": True, "by": "console"})
    answers = {"approve": yes("late")}
    assert text(await a_round(client, request_state=state, input_responses=answers)) == "paid 3, by console"


# --- answers that are none ------------------------------------------------------------------------


async def test_an_answer_of_a_wrong_shape_is_a_clear_error_and_may_be_mended(client: Client) -> None:
    state = await begun(client, "both", {})
    message = CreateMessageResult(role="assistant", content=TextContent(type="text", text="yes"), model="m")
    with pytest.raises(MCPError) as error:
        await a_round(client, "both", {}, request_state=state, input_responses={"boss": yes(), "bank": message})
    assert error.value.code == INVALID_PARAMS
    assert "'bank'" in error.value.message
    answers = {"boss": yes("boss"), "bank": yes("bank")}
    assert text(await a_round(client, "both", {}, request_state=state, input_responses=answers)) == "boss, bank"


async def test_an_answer_that_its_form_does_not_take_is_asked_for_under_a_new_name(client: Client) -> None:
    state = await begun(client)
    wrong = ElicitResult(action="accept", content={"approved": "perhaps"})
    asked = await a_round(client, request_state=state, input_responses={"approve": wrong})
    assert isinstance(asked, InputRequiredResult)
    assert list(asked.input_requests or {}) == ["approve-2"]


# --- not everybody's ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["", "v1.", "v1.AAAA", "perdure", "v1." + "A" * 200])
async def test_a_forged_state_is_refused(house: House, client: Client, state: str) -> None:
    with pytest.raises(MCPError) as error:
        await a_round(client, request_state=state, input_responses={"approve": yes()})
    assert refused(error)
    assert await calls_of(house.mcp) == []


async def test_the_id_of_a_call_is_no_state(house: House, client: Client) -> None:
    await begun(client)
    with pytest.raises(MCPError) as error:
        await a_round(client, request_state=await house.asks(), input_responses={"approve": yes()})
    assert refused(error)


@pytest.mark.parametrize(("tool", "arguments"), [("pay", {"amount": 4}), ("both", {}), ("rounds", {"amount": 3})])
async def test_a_state_is_good_for_its_own_request_alone(client: Client, tool: str, arguments: Any) -> None:
    state = await begun(client)
    with pytest.raises(MCPError) as error:
        await a_round(client, tool, arguments, request_state=state)
    assert refused(error)


def by_header(connection: HTTPConnection) -> Principal | None:
    name = connection.headers.get("x-user")
    return None if name is None else Principal(name)


async def test_a_state_of_somebody_else_is_refused(tmp_path: Path) -> None:
    mcp = QuestionsServer(tmp_path, principal=by_header).mcp
    person = Person()
    async with (
        mounted(mcp) as url,
        client_as(url, STATELESS, "ann", elicitation_callback=person.answer) as ann,
        client_as(url, STATELESS, "bob", elicitation_callback=person.answer) as bob,
        client_as(url, STATELESS, elicitation_callback=person.answer) as nobody,
    ):
        state, nobodys = await begun(ann), await begun(nobody)
        for client, foreign in ((bob, state), (nobody, state), (ann, nobodys)):
            with pytest.raises(MCPError) as error:
                await a_round(client, request_state=foreign, input_responses={"approve": yes("mallory")})
            assert refused(error)
        for client, own in ((ann, state), (nobody, nobodys)):
            result = await a_round(client, request_state=own, input_responses={"approve": yes("its own")})
            assert text(result) == "paid 3, by its own"


async def test_a_state_is_void_after_seven_days(house: House, client: Client) -> None:
    state = await begun(client)
    seal = Seal(lambda: house.folder / "calls.db")
    claims = json.loads(seal.unseal(state))
    assert claims["exp"] - claims["iat"] == pytest.approx(timedelta(days=7).total_seconds())
    old = seal.seal(json.dumps({**claims, "iat": 0, "exp": claims["exp"] - claims["iat"]}).encode())
    with pytest.raises(MCPError) as error:
        await a_round(client, request_state=old, input_responses={"approve": yes()})
    assert refused(error)
    assert text(await a_round(client, request_state=state, input_responses={"approve": yes()})) == "paid 3, by ann"


async def test_a_state_of_a_call_that_is_gone_is_not_another_call(house: House, client: Client) -> None:
    state = await begun(client)
    other = QuestionsServer(house.folder, engine="memory:", request_state_security=_sealed_as(house)).mcp
    async with Client(other, mode=STATELESS, elicitation_callback=Person().answer) as elsewhere:
        result = await a_round(elsewhere, request_state=state, input_responses={"approve": yes()})
        assert result.is_error
        assert "There is no call" in text(result)
        assert await calls_of(other) == []


def _sealed_as(house: House) -> RequestStateSecurity:
    seal = Seal(lambda: house.folder / "calls.db")
    return RequestStateSecurity(codec=seal, ttl=60, bind_principal=lambda _: "machine")


# --- the key --------------------------------------------------------------------------------------


async def test_the_key_lies_beside_the_calls_and_nobody_else_may_read_it(house: House, client: Client) -> None:
    file = house.folder / f"calls.db{SUFFIX}"
    assert not file.exists()
    await begun(client)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32
    assert [each.name for each in house.folder.iterdir() if SUFFIX in each.name] == [file.name]


async def test_a_question_that_no_state_can_be_made_for_stays_until_it_can(house: House, client: Client) -> None:
    file = house.folder / f"calls.db{SUFFIX}"
    file.write_bytes(b"short")
    for _ in range(2):
        assert (await a_round(client)).is_error
    file.unlink()
    state = await begun(client)
    assert text(await a_round(client, request_state=state, input_responses={"approve": yes()})) == "paid 3, by ann"
    assert len(await calls_of(house.mcp)) == 1


async def test_of_many_who_make_the_key_one_does(tmp_path: Path) -> None:
    keys = await asyncio.gather(*(asyncio.to_thread(key_beside, tmp_path / "calls.db") for _ in range(20)))
    assert len(set(keys)) == 1
    assert os.listdir(tmp_path) == [f"calls.db{SUFFIX}"]


KEY = """
import sys
from pathlib import Path
from perdure.protocol.seal import key_beside
for line in ("ready", "asks"):
    print(line, flush=True)
    sys.stdin.readline()
print(key_beside(Path(sys.argv[1])).hex())
"""


@pytest.mark.slow
async def test_a_file_system_without_links_keeps_a_key_too_and_nobody_reads_half_of_it(tmp_path: Path) -> None:
    library, later, folder = tmp_path / "no_links.so", tmp_path / "later", tmp_path / "calls"
    source = Path(__file__).with_name("no_links.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    folder.mkdir()
    later.touch()
    file = folder / f"calls.db{SUFFIX}"
    pipe = asyncio.subprocess.PIPE
    environment = os.environ | {"LD_PRELOAD": str(library), "WRITE_LATER": str(later)}
    async with AsyncExitStack() as stack, asyncio.timeout(BOUND):
        processes: list[asyncio.subprocess.Process] = []
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", KEY, str(folder / "calls.db"), stdin=pipe, stdout=pipe, env=environment
            )
            stack.push_async_callback(process.communicate)
            processes.append(process)
        stack.callback(later.unlink, missing_ok=True)

        async def ask(process: asyncio.subprocess.Process) -> None:
            assert process.stdout is not None
            assert process.stdin is not None
            for line in (b"ready\n", b"asks\n"):
                assert await process.stdout.readline() == line
                process.stdin.write(b"\n")

        async def is_begun() -> bool:
            return file.exists()

        await ask(processes[0])
        await until(is_begun)
        await ask(processes[1])
        later.unlink()
        keys = [(await process.communicate())[0] for process in processes]
    assert keys == [file.read_bytes().hex().encode() + b"\n"] * 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(folder) == [file.name]


def test_each_file_of_calls_has_its_own_key(tmp_path: Path) -> None:
    seals = [Seal(lambda name=name: None if name is None else tmp_path / name) for name in ("a", "b", None, None)]
    for one in seals:
        for other in seals:
            if one is other:
                assert other.unseal(one.seal(b"state")) == b"state"
            else:
                with pytest.raises(InvalidRequestState):
                    other.unseal(one.seal(b"state"))


def test_what_is_no_key_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / f"calls.db{SUFFIX}").write_bytes(b"short")
    with pytest.raises(StorageCorrupt, match="Remove it"):
        key_beside(tmp_path / "calls.db")


# --- requests that are lent -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_tool_that_lends_its_request_to_a_resource_is_not_asked_by_reply(mode: str) -> None:
    mcp = DurableMCP[Any]("lender", engine="memory:", log_level="CRITICAL")

    async def note(topic: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Show {topic}?", Approval)
        return f"{topic}: {said.action}"

    async def read(ctx: Context[Any]) -> str:
        (content,) = await ctx.read_resource("note://cats")
        return str(content.content)

    mcp.resource("note://{topic}")(note)
    mcp.tool(durable=False)(read)
    async with Client(mcp, mode=mode, elicitation_callback=Person().answer) as client:
        result = await client.call_tool("read", {})
    said: Any = text(result)
    assert said == "cats: accept" if mode == "legacy" else "cannot be asked" in said


@pytest.mark.parametrize("mode", MODES)
async def test_nor_is_a_resource_that_lends_its_request_to_another(mode: str) -> None:
    mcp = DurableMCP[Any]("lender", engine="memory:", log_level="CRITICAL")

    async def note(topic: str, ctx: DurableContext) -> str:
        said = await ctx.elicit(f"Show {topic}?", Approval, default=Approval(approved=True, by="default"))
        return said.data.by if said.action == "accept" else said.action

    async def album(topic: str, ctx: Context[Any]) -> str:
        (content,) = await ctx.read_resource(f"note://{topic}")
        return f"{topic} by {content.content}"

    mcp.resource("note://{topic}")(note)
    mcp.resource("album://{topic}")(album)
    async with Client(mcp, mode=mode, elicitation_callback=Person().answer) as client:
        (content,) = (await client.read_resource("album://cats")).contents
    assert isinstance(content, TextResourceContents)
    assert content.text == ("cats by ann" if mode == "legacy" else "cats by default")
