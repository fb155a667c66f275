"""Durable sorted maps: typed, the same in bodies and everywhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.context import DurableContext
from perdure.engines.embedded.engine import Embedded
from perdure.errors import CallFailed, PayloadTooLarge, PerdureError
from tests.context.house import ANN, BOB, LATER, SOON, House, seen

Context = DurableContext[Any]


class Item(BaseModel):
    sku: str
    stock: int


class SoldOut(Exception):
    pass


def take(item: Item | None) -> Item | None:
    if item is None or item.stock < 1:
        raise SoldOut
    return item.model_copy(update={"stock": item.stock - 1})


@pytest.fixture
def house() -> House:
    return House()


async def test_a_store_keeps_values_of_its_type(house: House) -> None:
    items = house.store("items", Item)
    async with house.serving():
        assert await items.get("a") is None
        assert await items.get("a", Item(sku="none", stock=0)) == Item(sku="none", stock=0)
        await items.set("a", Item(sku="a", stock=1))
        assert await items.get("a") == Item(sku="a", stock=1)
        await items.delete("a")
        await items.delete("a")
        assert await items.get("a") is None


async def test_entries_are_listed_in_the_order_of_their_keys(house: House) -> None:
    numbers = house.store("numbers", int)
    async with house.serving():
        for number, key in enumerate(["b/2", "a/1", "b/1", "b/3"]):
            await numbers.set(key, number)
        assert await numbers.items() == [("a/1", 1), ("b/1", 2), ("b/2", 0), ("b/3", 3)]
        assert await numbers.items(prefix="b/", limit=2) == [("b/1", 2), ("b/2", 0)]
        assert await numbers.items(prefix="b/", after="b/2") == [("b/3", 3)]


async def test_a_body_uses_a_store_as_everybody_else_does(house: House) -> None:
    items = house.store("items", Item)

    async def trade(ctx: Context) -> list[Any]:
        before = await items.get("a")
        await items.set("a", Item(sku="a", stock=2))
        await items.set("b", Item(sku="b", stock=7))
        taken = await items.update("a", take)
        await items.delete("b")
        listed = [key for key, _ in await items.items()]
        return [before, taken.stock if taken else None, listed]

    async with house.serving():
        assert await house.ask(house.body(trade)) == [None, 1, ["a"]]
        assert await items.get("a") == Item(sku="a", stock=1)


async def test_what_a_body_read_is_what_it_reads_in_its_next_life(house: House) -> None:
    numbers = house.store("numbers", int)
    lives: list[int | None] = []

    async def remember(ctx: Context) -> int | None:
        lives.append(await numbers.get("n"))
        if len(lives) == 1:
            await ctx.sleep(LATER)
        return lives[-1]

    async with house.serving():
        await numbers.set("n", 1)
        call = await house.begin(house.body(remember))
        await seen(house.calls, call.id, lambda view: view.status == "waiting")
        await numbers.set("n", 2)
        await house.engine.crash()
        assert await call.result() == 1
    assert lives == [1, 1]


async def test_what_is_too_large_to_write_or_to_read_raises_in_the_body(house: House) -> None:
    house.engine = Embedded("memory:", payload_limit=1000)
    texts = house.store("texts", str)

    async def hoards(ctx: Context) -> list[str]:
        for key in "abc":
            await texts.set(key, key * 400)
        refused: list[str] = []
        for use in (texts.set("d", "d" * 999), texts.update("a", lambda a: f"{a}" * 3), texts.items()):
            try:
                await use
            except PayloadTooLarge as error:
                refused.append(str(error).split(" has")[0])
        await ctx.sleep(SOON)
        return [*refused, *(key for key, _ in await texts.items(limit=2))]

    async with house.serving():
        assert await house.ask(house.body(hoards)) == [
            "The value of 'd' in store 'texts'",
            "The value of 'a' in store 'texts'",
            "The value of 'texts.ListEntries'",
            "a",
            "b",
        ]
        assert await texts.get("a") == "a" * 400


async def test_an_update_happens_once_however_many_try(house: House) -> None:
    items = house.store("items", Item)

    async def checkout(ctx: Context, n: int) -> str:
        try:
            item = await items.update("a", take)
        except SoldOut:
            return "sold out"
        assert item is not None
        return f"{item.stock} left"

    tool = house.body(checkout)
    async with house.serving():
        await items.set("a", Item(sku="a", stock=5))
        ends = await asyncio.gather(*(house.ask(tool, n=n) for n in range(8)))
        assert sorted(ends) == ["0 left", "1 left", "2 left", "3 left", "4 left", *["sold out"] * 3]
        assert await items.get("a") == Item(sku="a", stock=0)


async def test_an_update_that_lost_a_race_tries_again_with_what_it_found(tmp_path: Path) -> None:
    house = House()
    house.engine = Embedded(tmp_path / "calls.db")
    numbers = house.store("numbers", int)
    tries: list[int | None] = []

    def plus_one(n: int | None) -> int:
        tries.append(n)
        return (n or 0) + 1

    async with house.serving():
        ends = await asyncio.gather(*(numbers.update("n", plus_one) for _ in range(10)))
        assert sorted(end or 0 for end in ends) == list(range(1, 11))
        assert len(tries) > 10


async def test_an_update_to_none_deletes(house: House) -> None:
    numbers = house.store("numbers", int)
    async with house.serving():
        await numbers.set("n", 1)
        assert await numbers.update("n", lambda n: None) is None
        assert await numbers.items() == []


async def test_each_principal_has_entries_of_its_own(house: House) -> None:
    topics = house.store("topics", str, per_principal=True)

    async def choose(ctx: Context, topic: str) -> list[Any]:
        before = await topics.get("topic")
        await topics.set("topic", topic)

        async def in_a_step() -> str | None:
            return await topics.get("topic")

        return [before, await ctx.step(in_a_step)]

    async def chosen() -> str | None:
        return await topics.get("topic")

    choose_tool, chosen_tool = house.body(choose), house.whole(chosen)
    async with house.serving():
        assert await house.ask(choose_tool, by=ANN, topic="boats") == [None, "boats"]
        assert await house.ask(choose_tool, by=BOB, topic="trains") == [None, "trains"]
        assert await house.ask(chosen_tool, by=ANN) == "boats"
        assert await topics.of(BOB).get("topic") == "trains"


async def test_entries_of_nobody_in_particular_are_refused(house: House) -> None:
    topics = house.store("topics", str, per_principal=True)

    async def choose(ctx: Context) -> None:
        await topics.set("topic", "boats")

    tool = house.body(choose)
    async with house.serving():
        with pytest.raises(CallFailed, match="not known whose"):
            await house.ask(tool, by=None)
        with pytest.raises(PerdureError, match=r"store\.of\(principal\)"):
            await topics.get("topic")
        with pytest.raises(PerdureError, match="not known whose"):
            topics.of(None)


async def test_a_store_for_all_has_no_entries_of_one(house: House) -> None:
    with pytest.raises(PerdureError, match="one for all"):
        house.store("numbers", int).of(ANN)
