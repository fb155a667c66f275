"""An error is recorded as itself where it provably survives, and as what it said where it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from perdure.core.codec import (
    decode_error,
    describe_error,
    encode_error,
    encode_step_error,
    error_message,
    error_type,
)
from perdure.core.retry import TryAgain
from perdure.engine import CallView, Question, SignalSpec
from perdure.errors import (
    AlreadyAnswered,
    CallEnded,
    CallFailed,
    CallNotFound,
    Conflict,
    Diverged,
    EffectOutsideStep,
    NotRecordable,
    OutcomeUnknown,
    PayloadTooLarge,
    PerdureError,
    SchemaTooNew,
    StepFailed,
    StepOutsideBody,
    StorageFull,
    Stuck,
)
from tests.core.records import Declined, HoldsClient, Mute, Several, Slotted

VIEW = CallView(
    id="c1",
    tool="invoice",
    function="shop:invoice",
    kind="tool",
    key="invoice-7",
    status="completed",
    outcome=b'{"state":"PAID"}',
    questions=(Question("approve", "form", "Pay?", {"type": "object"}, None),),
    callers=frozenset({"machine"}),
    signals=(SignalSpec("decision", True, {"type": "boolean"}),),
    created=datetime(2026, 1, 1, tzinfo=UTC),
)


def a_validation_error() -> ValidationError:
    class Strict(BaseModel):
        x: int

    with pytest.raises(ValidationError) as refused:
        Strict.model_validate({"x": "no"})
    return refused.value


def with_note(error: Exception) -> Exception:
    error.add_note("seen by the operator")
    return error


SURVIVE: list[Exception] = [
    ValueError(),
    ValueError("bad", 1, None, Decimal("1.0")),
    KeyError("name"),
    TimeoutError(),
    ConnectionRefusedError(111, "refused"),
    FileNotFoundError(2, "No such file", "/tmp/x"),
    FileNotFoundError(2, "No such file", Path("/tmp/x")),
    ImportError("gone", name="module", path="/x"),
    NameError("gone", name="x"),
    UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad"),
    json.JSONDecodeError("bad", "{", 1),
    subprocess.CalledProcessError(2, ["ls"], output=b"x"),
    ValueError("half a character, as in a file's name: \udcff"),
    Declined(5, reason="funds"),
    Slotted(7),
    with_note(ValueError("noted")),
    ToolError("no such city"),
    MCPError(-32000, "busy", {"after": 5}),
    StepFailed("pay", "Declined", "funds", 3),
    CallFailed("c1", "StepFailed", "…"),
    OutcomeUnknown("pay", "k1"),
    OutcomeUnknown("pay", "k1", "c1"),
    EffectOutsideStep("open()", "c1", "x.py:5"),
    StepOutsideBody("pay"),
    NotRecordable("A tuple", "annotate"),
    PayloadTooLarge("The result", 5, 4),
    Diverged("a", "b", "3.11"),
    Conflict("pay", "k"),
    CallNotFound("c1"),
    CallEnded(VIEW),
    AlreadyAnswered(VIEW, "decision"),
    Stuck("c1", "diverged"),
    StorageFull("disk"),
    SchemaTooNew("x.db", 2, 1),
]

LOST: list[BaseException] = [
    a_validation_error(),
    httpx.HTTPStatusError("503", request=httpx.Request("GET", "https://x"), response=httpx.Response(503)),
    HoldsClient(object()),
    Mute(),
    ValueError(object()),
    AttributeError("gone", name="x", obj=object()),
    StopIteration(1),
    StopAsyncIteration(),
    GeneratorExit(),
    asyncio.CancelledError(),
    SystemExit(3),
    KeyboardInterrupt(),
    TryAgain("later"),
]

attributes = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


@pytest.mark.parametrize("error", SURVIVE, ids=lambda error: type(error).__name__)
def test_it_comes_back_as_itself(error: Exception) -> None:
    for raw in (encode_error(error), encode_step_error(error, step="pay", attempts=2)):
        returned = decode_error(raw)
        assert type(returned) is type(error)
        assert returned.args == error.args
        assert str(returned) == str(error)
        assert returned.__dict__ == error.__dict__


def test_what_a_class_keeps_outside_of_its_dict_comes_back_too() -> None:
    missing = decode_error(encode_error(FileNotFoundError(2, "No such file", "/tmp/x")))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "/tmp/x")
    slotted = decode_error(encode_error(Slotted(7)))
    assert isinstance(slotted, Slotted)
    assert slotted.code == 7


@given(args=st.lists(attributes, max_size=3), state=st.dictionaries(st.text("abc", min_size=1), attributes, max_size=3))
def test_any_plain_arguments_and_attributes_come_back(args: list[Any], state: dict[str, Any]) -> None:
    error = RuntimeError(*args)
    error.__dict__.update(state)
    returned = decode_error(encode_step_error(error, step="s", attempts=1))
    if isinstance(returned, StepFailed):  # half a character cannot be JSON
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in repr([args, state]) + "".join(map(str, args)))
    else:
        assert (returned.args, returned.__dict__) == (tuple(args), state)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_step_that_gave_up_with_what_does_not_survive_is_step_failed(error: BaseException) -> None:
    returned = decode_error(encode_step_error(error, step="pay", attempts=4))
    assert type(returned) is StepFailed
    assert (returned.step, returned.type, returned.attempts) == ("pay", type(error).__name__, 4)


def test_step_failed_says_what_the_error_said() -> None:
    returned = decode_error(encode_step_error(HoldsClient(object()), step="pay", attempts=1))
    assert isinstance(returned, StepFailed)
    assert returned.message == "the client broke"


def test_outside_of_steps_what_does_not_survive_is_a_perdure_error_with_its_words() -> None:
    returned = decode_error(encode_error(HoldsClient(object())))
    assert type(returned) is PerdureError
    assert str(returned) == "HoldsClient: the client broke"


def test_groups_recurse() -> None:
    group = BaseExceptionGroup(
        "two of three", [ValueError(1), ExceptionGroup("inner", [HoldsClient(object())]), asyncio.CancelledError()]
    )
    returned = decode_error(encode_step_error(group, step="all", attempts=1))
    assert type(returned) is ExceptionGroup
    assert returned.message == "two of three"
    first, inner, last = cast("tuple[Exception, ...]", returned.exceptions)
    assert repr(first) == "ValueError(1)"
    assert type(last) is StepFailed
    assert repr(inner).startswith("ExceptionGroup('inner', [StepFailed(")


def test_a_group_of_a_class_of_its_own_keeps_it() -> None:
    returned = decode_error(encode_error(Several("some", [ValueError(1)])))
    assert type(returned) is Several

    class Local(ExceptionGroup[Exception]):
        pass

    assert type(decode_error(encode_error(Local("some", [ValueError(1)])))) is ExceptionGroup


def test_a_local_class_does_not_survive() -> None:
    class Local(Exception):
        pass

    returned = decode_error(encode_step_error(Local("x"), step="pay", attempts=1))
    assert isinstance(returned, StepFailed)
    assert returned.type == "Local"


def test_a_class_that_is_gone_leaves_a_step_failed_that_says_so() -> None:
    raw = encode_step_error(Declined(5, reason="funds"), step="pay", attempts=3).replace(b"records:Declined", b"x:Gone")
    returned = decode_error(raw)
    assert isinstance(returned, StepFailed)
    assert (returned.step, returned.type, returned.message, returned.attempts) == ("pay", "Gone", "5: funds", 3)
    assert any("tests.core.x:Gone" in note for note in returned.__notes__)


def test_a_class_that_is_gone_leaves_a_perdure_error_outside_of_steps() -> None:
    raw = encode_error(Declined(5, reason="funds")).replace(b"tests.core.records", b"tests.core.gone")
    returned = decode_error(raw)
    assert type(returned) is PerdureError
    assert "funds" in str(returned)


@pytest.mark.parametrize("name", ["os:system", "builtins:print", "subprocess:Popen", "builtins:SystemExit", "x", ""])
def test_nothing_but_exceptions_is_made_by_name(name: str) -> None:
    raw = json.dumps({"type": name, "message": "m", "args": ["touch /tmp/never"], "state": {}}).encode()
    assert type(decode_error(raw)) is PerdureError


def test_no_init_runs_when_an_error_is_restored() -> None:
    raw = encode_error(Declined(5, reason="funds"))
    made: list[int] = []
    original = Declined.__init__
    try:
        Declined.__init__ = lambda self, code, *, reason="": made.append(code)
        assert isinstance(decode_error(raw), Declined)
    finally:
        Declined.__init__ = original
    assert made == []


@pytest.mark.parametrize("error", [*SURVIVE, *LOST], ids=lambda error: type(error).__name__)
def test_it_is_described_without_its_class(error: BaseException) -> None:
    raw = encode_error(error)
    assert error_type(raw) == type(error).__name__
    assert describe_error(raw).startswith(type(error).__name__)
    if type(error) is not Mute:
        assert error_message(raw) == str(error)


def test_a_step_s_error_is_described_as_what_the_body_gets() -> None:
    raw = encode_step_error(HoldsClient(object()), step="pay", attempts=1)
    assert describe_error(raw) == "StepFailed: Step 'pay' was tried once and failed with HoldsClient: the client broke"


def test_an_error_of_the_main_module_is_found_under_its_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from perdure.core.codec import decode_error, encode_error\n"
        "class OutOfStock(Exception): pass\n"
        "if __name__ == '__main__':\n"
        "    raw = encode_error(OutOfStock('tea'))\n"
        "    assert type(decode_error(raw)) is OutOfStock\n"
        "    print(raw.decode())\n"
    )
    written = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, check=True).stdout
    read = (
        "import sys; from shop import OutOfStock; from perdure.core.codec import decode_error;"
        "print(type(decode_error(sys.stdin.buffer.read())) is OutOfStock)"
    )
    found = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, input=written, capture_output=True, check=True)
    assert found.stdout.strip() == b"True"


def test_a_second_decision_says_how_the_call_is_and_what_it_says() -> None:
    waiting = replace(VIEW, status="waiting", text="")
    begins = "'approval' of call c1 has been decided already; the call is waiting"
    assert str(AlreadyAnswered(waiting, "approval")) == f"{begins}."
    speaks = replace(waiting, text="waits for approval")
    assert str(AlreadyAnswered(speaks, "approval")) == f"{begins} and says 'waits for approval'."
