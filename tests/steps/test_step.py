"""What a step is made of, what it refuses, and what it asks of whoever runs the body it is awaited in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, SecretStr

from perdure.core.commands import Work
from perdure.core.retry import ONCE, Retry
from perdure.effects import Frame, running_frame
from perdure.errors import NotRecordable, PerdureError, StepOutsideBody
from perdure.step import USELESS, Step, step, stubbed

if TYPE_CHECKING:
    from somewhere_else import Unimportable  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

T = TypeVar("T")


class Asking:
    """Runs what a body asks for at once, and keeps what it was: enough of `Effects` for a step."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Work]] = []

    async def step(self, name: str, digest: str, work: Work, decode: Callable[[bytes], T]) -> T:
        self.asked.append((name, digest, work))
        value = await asyncio.to_thread(work.run) if work.threaded else await work.run()
        return decode(work.encode(value))

    async def ask(self, awaitable: Awaitable[T]) -> T:
        """Await it as if in a body: its loop is known by its effects."""
        loop = asyncio.get_running_loop()
        setattr(loop, "effects", self)  # noqa: B010  the loop of a body has them, this one is lent them
        try:
            return await awaitable
        finally:
            delattr(loop, "effects")

    @property
    def work(self) -> Work:
        return self.asked[-1][2]

    @property
    def digest(self) -> str:
        return self.asked[-1][1]


@pytest.fixture
def body() -> Asking:
    return Asking()


class Receipt(BaseModel):
    id: str


@step(timeout=timedelta(seconds=30), retry=Retry(attempts=2))
async def pay(amount: int, to: str = "shop") -> Receipt:
    return Receipt(id=f"{amount} to {to}")


# --- in a body --------------------------------------------------------------------------------------


async def test_in_a_body_it_asks_under_its_name_with_its_rules(body: Asking) -> None:
    assert await body.ask(pay(5, to="you")) == Receipt(id="5 to you")
    [(name, _, work)] = body.asked
    assert name == "pay"
    assert (work.retry, work.timeout, work.threaded) == (Retry(attempts=2), 30.0, False)
    assert (work.at_most_once, work.retries_unknown, work.reconcile) == (False, False, None)


async def test_what_comes_back_went_through_its_record(body: Asking) -> None:
    made: list[Receipt] = []

    @step
    async def keep() -> Receipt:
        made.append(Receipt(id="1"))
        return made[0]

    returned = await body.ask(keep())
    assert returned == made[0]
    assert returned is not made[0]


async def test_what_would_change_by_recording_is_refused_in_the_first_run(body: Asking) -> None:
    with pytest.raises(NotRecordable, match="Annotate what the function returns"):
        await body.ask(step(lambda: (1, 2), name="pair")())


async def test_equal_arguments_have_equal_digests_and_others_have_others(body: Asking) -> None:
    digests: list[str] = []
    for arguments in ((5, "you"), (5, "you"), (6, "you")):
        await body.ask(pay(*arguments))
        digests.append(body.digest)
    assert digests[0] == digests[1] != digests[2]


async def test_self_counts_by_its_type(body: Asking) -> None:
    class Shop:
        def __init__(self, city: str) -> None:
            self.city = city

        @step
        async def order(self, item: str) -> str:
            return f"{item} from {self.city}"

    digests: list[str] = []
    for shop in (Shop("Porto"), Shop("Turku")):
        assert await body.ask(shop.order("tea")) == f"tea from {shop.city}"
        digests.append(body.digest)
    assert digests[0] == digests[1]


async def test_it_runs_in_a_copy_of_the_context_of_who_asked(body: Asking) -> None:
    colour: ContextVar[str] = ContextVar("colour")
    colour.set("red")
    await body.ask(pay(5))
    colour.set("blue")
    assert body.work.context is not None
    assert body.work.context[colour] == "red"


async def test_a_sync_function_is_asked_for_as_one(body: Asking) -> None:
    def sync(x: int) -> int:
        return x + 1

    assert await body.ask(step(sync)(1)) == 2
    assert body.work.threaded


async def test_what_is_awaited_is_found_under_partials_objects_and_annotations(body: Asking) -> None:
    async def add(x: int, y: int) -> int:
        return x + y

    class Adder:
        async def __call__(self, x: int) -> int:
            return x + 1

    def later(x: int) -> Coroutine[Any, Any, int]:
        return add(x, 1)

    for made in (step(partial(add, 1)), step(Adder(), name="adder"), step(later)):
        assert await body.ask(made(1)) == 2
        assert not body.work.threaded


async def test_trying_again_is_useless_after_errors_that_say_so(body: Asking) -> None:
    await body.ask(pay(5))
    assert set(body.work.useless) == {ToolError, MCPError, PerdureError, TypeError} == set(USELESS)


async def test_at_most_once_is_tried_once_unless_retry_says_what_proves_it_did_not_happen(body: Asking) -> None:
    async def charge(x: int) -> int:
        return x

    await body.ask(step(charge, at_most_once=True)(1))
    assert (body.work.at_most_once, body.work.retry, body.work.retries_unknown) == (True, ONCE, False)
    proof = Retry(only_on=(ConnectionRefusedError,))
    await body.ask(step(charge, at_most_once=True, retry=proof)(1))
    assert (body.work.at_most_once, body.work.retry, body.work.retries_unknown) == (True, proof, True)
    await body.ask(step(charge, at_most_once=True).options(retry=proof)(1))
    assert (body.work.at_most_once, body.work.retry, body.work.retries_unknown) == (True, proof, True)
    await body.ask(step(charge, at_most_once=True).options(timeout=timedelta(seconds=1))(1))
    assert (body.work.retry, body.work.timeout) == (ONCE, 1.0)


async def test_reconcile_is_asked_with_the_same_arguments(body: Asking) -> None:
    async def find(amount: int, to: str = "shop") -> Receipt | None:
        return Receipt(id=f"found {amount} to {to}")

    @step(reconcile=find)
    async def charge(amount: int, to: str = "shop") -> Receipt:
        return Receipt(id="new")

    await body.ask(charge(5, to="you"))
    assert body.work.reconcile is not None
    assert await body.work.reconcile() == Receipt(id="found 5 to you")


async def test_options_change_what_they_name_and_nothing_else(body: Asking) -> None:
    await body.ask(pay.options(timeout=None, name="pay.slowly")(5))
    [(name, _, work)] = body.asked
    assert (name, work.timeout, work.retry) == ("pay.slowly", None, Retry(attempts=2))


# --- elsewhere --------------------------------------------------------------------------------------


class Server:
    state = None

    sampler = None

    def calls_of(self, caller: str | None) -> None: ...


async def within(frame: Frame, ask: Awaitable[T]) -> T:
    token = running_frame.set(frame)
    try:
        return await ask
    finally:
        running_frame.reset(token)


async def test_in_a_tool_without_a_context_it_raises_because_nothing_would_record_it() -> None:
    with pytest.raises(StepOutsideBody, match="pay"):
        await within(Frame(Server(), None, None, call_id="c1"), pay(5))


async def test_in_another_step_it_is_an_ordinary_call() -> None:
    frame = Frame(Server(), None, None, call_id="c1", in_body=True)
    assert await within(frame, pay(5)) == Receipt(id="5 to shop")


async def test_in_an_ordinary_tool_it_is_an_ordinary_call() -> None:
    assert await within(Frame(Server(), None, None), pay(5)) == Receipt(id="5 to shop")


# --- what it refuses --------------------------------------------------------------------------------


async def numbers() -> AsyncIterator[int]:
    yield 1


def counted() -> Iterator[int]:
    yield 1


async def secret() -> SecretStr:
    return SecretStr("x")


async def nothing(x: int) -> None: ...
async def number(x: int) -> int:
    return x


async def find_other(y: int) -> int | None:
    return y


def find_sync(x: int) -> int | None:
    return x


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: step(numbers), TypeError, "generator"),
    (lambda: step(counted), TypeError, "generator"),
    (lambda: step(lambda: 1), ValueError, "lambda"),
    (lambda: step(number, name=""), ValueError, "empty"),
    (lambda: step(number, timeout=timedelta(0)), ValueError, "time-out"),
    (lambda: number_step.options(timeout=timedelta(seconds=-1)), ValueError, "time-out"),
    (lambda: step(secret), NotRecordable, "secret"),
    (lambda: step(number_step), TypeError, "already"),
    (lambda: step(number, at_most_once=True, reconcile=number), TypeError, "Choose one"),
    (lambda: step(nothing, reconcile=nothing), TypeError, "returns nothing"),
    (lambda: step(number, reconcile=find_other), TypeError, r"\(x\), not \(y\)"),  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownLambdaType]  on purpose
    (lambda: step(number, reconcile=find_sync), TypeError, "async"),  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownLambdaType]  on purpose
]
number_step = step(number)


@pytest.mark.parametrize(("make", "error", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_cannot_be_a_step_is_refused_when_it_is_made(
    make: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


async def test_a_name_that_comes_later_is_found_at_the_first_use(body: Asking) -> None:
    @step
    async def early(x: int) -> ComesLater:
        return ComesLater(x=x)

    assert await body.ask(early(1)) == ComesLater(x=1)


async def test_a_name_that_never_comes_is_refused_at_the_first_use(body: Asking) -> None:
    @step
    async def lost() -> Unimportable:  # pyright: ignore[reportUnknownParameterType]  that is the point
        return 1

    with pytest.raises(NotRecordable, match="Unimportable"):
        await body.ask(lost())  # pyright: ignore[reportUnknownArgumentType]
    assert body.asked == []


async def test_only_what_it_returns_must_be_known(body: Asking) -> None:
    @step
    async def handle(x: Unimportable) -> int:  # pyright: ignore[reportUnknownParameterType]  that is the point
        return 1

    assert await body.ask(handle(object())) == 1


async def test_a_class_of_the_function_around_it_can_be_returned(body: Asking) -> None:
    class Local(BaseModel):
        x: int

    @step
    async def local() -> Local:
        return Local(x=1)

    assert await body.ask(local()) == Local(x=1)


def test_its_name_leaves_out_the_functions_around_it() -> None:
    @step
    async def inner() -> None: ...

    assert inner.name == "inner"
    assert step(partial(number, 1)).name == "number"


def test_it_looks_like_its_function() -> None:
    assert inspect.unwrap(pay) is pay.fn
    assert (pay.__module__, pay.__doc__) == (__name__, pay.fn.__doc__)
    assert list(inspect.signature(pay).parameters) == ["amount", "to"]


# --- stubs ------------------------------------------------------------------------------------------


async def test_a_stub_runs_wherever_the_step_or_a_copy_of_it_would(body: Asking) -> None:
    def free(amount: int, to: str = "shop") -> Receipt:
        return Receipt(id="free")

    copy = pay.options(name="pay.once")
    with stubbed(pay, free):
        for made in (pay, copy, pay.options(timeout=None)):
            assert await made(5) == Receipt(id="free")
            assert await body.ask(made(5)) == Receipt(id="free")
            assert body.work.threaded
    assert await copy(5) == Receipt(id="5 to shop")


async def test_a_stub_of_a_method_gets_its_object() -> None:
    class Shop:
        city = "Porto"

        @step
        async def order(self, item: str) -> str:
            return item

    async def stub(shop: Shop, item: str) -> str:
        return f"stub {item} from {shop.city}"

    with stubbed(Shop.order, stub):
        assert await Shop().order("tea") == "stub tea from Porto"


async def test_a_stub_brings_its_own_reconcile(body: Asking) -> None:
    async def find(x: int) -> int | None:
        raise AssertionError("the real one")

    async def find_stub(x: int) -> int | None:
        return 7

    charge: Step[[int], int] = step(number, reconcile=find)
    with stubbed(charge, number):
        await body.ask(charge(1))
    with stubbed(charge, number, find_stub):
        await body.ask(charge(1))
    without, its_own = (work.reconcile for _, _, work in body.asked)
    assert without is None
    assert its_own is not None
    assert await its_own() == 7


class ComesLater(BaseModel):
    x: int
