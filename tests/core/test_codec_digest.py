"""The digest of arguments: the same in every process, another one for other arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, SecretStr

from perdure.core.codec import digest
from tests.core.records import Colour, Keeping, Level, Line, Point

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.randoms())
def test_the_order_of_a_dict_does_not_count(members: dict[str, Any], chance: Any) -> None:
    shuffled = list(members.items())
    chance.shuffle(shuffled)
    assert digest((members,), members) == digest((dict(shuffled),), dict(shuffled))


@given(st.sets(st.integers() | st.text()), st.randoms())
def test_the_order_of_a_set_does_not_count(members: set[Any], chance: Any) -> None:
    shuffled = list(members)
    chance.shuffle(shuffled)
    assert digest((members,), {}) == digest((set(shuffled),), {}) == digest((frozenset(shuffled),), {})


@given(json_values, json_values)
def test_other_values_have_another_digest(one: Any, other: Any) -> None:
    assert (digest((one,), {}) == digest((other,), {})) is (sorted_repr(one) == sorted_repr(other))


def sorted_repr(value: Any) -> str:
    if isinstance(value, dict):
        return f"dict {sorted((key, sorted_repr(item)) for key, item in value.items())}"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  JSON
    return repr(list(map(sorted_repr, value))) if isinstance(value, list) else repr(value)  # pyright: ignore[reportUnknownArgumentType]  JSON


DIFFERENT: list[tuple[Any, ...]] = [
    (),
    (None,),
    (1,),
    (True,),
    (1.0,),
    ("1",),
    (1, 2),
    ([1, 2],),
    ({1, 2},),
    ({1: 2},),
    ({"1": 2}, 3),
    ({(1, 2): 3},),
    ({1: 2, "a": 3},),
    (b"x",),
    (b"y",),
    (Decimal("1.0"),),
    (Decimal("1.00"),),
    (UUID(int=1),),
    (Path("/x"),),
    (AnyUrl("https://x.example"),),
    (AnyUrl("https://y.example"),),
    (datetime(2026, 1, 1, tzinfo=UTC),),
    (datetime(2026, 1, 2, tzinfo=UTC),),
    (Colour.RED,),
    (Colour.BLUE,),
    (Point(1),),
    (Point(2),),
    (Line(amount=Decimal(1), due=datetime(2026, 1, 1, tzinfo=UTC)),),
    (Line(amount=Decimal(2), due=datetime(2026, 1, 1, tzinfo=UTC)),),
    (Lock(),),
    (object(),),
]


def test_values_that_differ_have_different_digests() -> None:
    assert len({digest(args, {}) for args in DIFFERENT}) == len(DIFFERENT)
    assert digest((1,), {}) != digest((), {"x": 1})


def test_what_cannot_be_written_counts_by_its_type() -> None:
    assert digest((object(),), {}) == digest((object(),), {})
    assert digest(({"client": Lock()},), {}) == digest(({"client": Lock()},), {})
    assert digest((SecretStr("a"),), {}) == digest((SecretStr("b"),), {})
    assert digest((Keeping(token=SecretStr("a")),), {}) == digest((Keeping(token=SecretStr("b")),), {})


def test_a_value_within_itself_has_a_digest() -> None:
    knot: list[Any] = [1]
    knot.append(knot)
    assert digest((knot,), {}) == digest((knot,), {}) != digest(([1],), {})


def test_an_iterator_is_left_as_it_is() -> None:
    items = iter([1, 2])
    digest((items,), {})
    assert list(items) == [1, 2]


def test_an_enum_of_ints_counts_as_its_int() -> None:
    assert digest((Level.LOW,), {}) == digest((1,), {})


SAMPLE = """
from datetime import datetime, UTC
from decimal import Decimal
from perdure.core.codec import digest
class Client: pass
print(digest(
    ("https://x", 1.1, None, {"b": {"x", "y", "z", 1, 2}, "a": [b"x", Decimal("1.0")]}, "\U0001fae9 \u0378", Client()),
    {"at": datetime(2026, 1, 1, tzinfo=UTC), "tags": frozenset("abcdef"), "odd": {(1, "a"): 1, 2: 3}},
))
"""


def test_it_is_the_same_in_every_process_with_every_hash_seed() -> None:
    assert len({run_sample(seed) for seed in ("0", "1", "2", "4711")}) == 1


def run_sample(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", SAMPLE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_it_is_the_same_in_every_version_of_perdure_and_python() -> None:
    """These are in journals: a change makes running calls stuck."""
    assert digest((), {}) == "e4a6a0577479b2b4"
    assert digest(("https://x.example", 5), {"deep": {"b": [1.5, None], "a": True}}) == "8d8f63bc59479c7b"
    assert digest((b"x", {"b", "a"}, Decimal("1.0"), datetime(2026, 1, 1, tzinfo=UTC)), {}) == "989c20969301ee38"
