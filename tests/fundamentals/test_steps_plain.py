"""Steps, before anything is durable: in plain code a step is an ordinary call of its function.

Read this first. What a step is for, its recorded outcome, is in the files that follow.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from perdure.errors import NotRecordable
from perdure.step import Retry, step


@step
async def greet(name: str) -> str:
    return f"hello {name}"


@step(retry=Retry(attempts=3), timeout=timedelta(seconds=5))
def blocking(name: str) -> str:
    """A sync function may block: it runs in a thread."""
    return f"{name} in {threading.current_thread().name}"


class Shop:
    def __init__(self, city: str) -> None:
        self.city = city

    @step
    async def order(self, item: str, *, count: int = 1) -> str:
        return f"{count} {item} from {self.city}"


async def test_a_step_is_awaited_and_gives_what_its_function_returns() -> None:
    assert await greet("world") == "hello world"


async def test_a_step_of_a_sync_function_is_awaited_too_and_runs_in_a_thread() -> None:
    assert await blocking("world") != f"world in {threading.current_thread().name}"


def test_the_plain_function_is_still_there() -> None:
    assert blocking.fn("world") == f"world in {threading.current_thread().name}"
    assert blocking.name == "blocking"


async def test_methods_can_be_steps() -> None:
    shop = Shop("Porto")
    assert await shop.order("tea", count=2) == "2 tea from Porto"
    assert await Shop.order(shop, "tea") == "1 tea from Porto"
    assert Shop.order.name == "Shop.order"


async def test_one_use_of_a_step_can_have_other_options() -> None:
    patient = greet.options(timeout=timedelta(minutes=1), retry=Retry(attempts=None), name="greet.patiently")
    assert await patient("world") == "hello world"
    assert (patient.name, greet.name) == ("greet.patiently", "greet")


async def test_a_step_can_call_other_steps() -> None:
    @step
    async def greet_all(names: list[str]) -> list[str]:
        return [await greet(name) for name in names]

    assert await greet_all(["a", "b"]) == ["hello a", "hello b"]


async def test_outside_of_a_body_a_step_runs_once_and_its_error_is_its_own() -> None:
    tries: list[str] = []

    @step(retry=Retry(attempts=5))
    async def flaky() -> None:
        tries.append("tried")
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        await flaky()
    assert tries == ["tried"]


def test_what_a_step_returns_must_survive_a_restart_which_is_checked_when_it_is_made() -> None:
    async def connect() -> threading.Thread:
        return threading.Thread()

    with pytest.raises(NotRecordable, match="The result of step 'connect'"):
        step(connect)
