"""What is recorded comes back equal and of the same kind, or is refused when it is recorded."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr

from perdure.core.codec import ANY, codec_for
from perdure.errors import Diverged, NotRecordable
from tests.core.records import (
    Base64Blob,
    Blob,
    Colour,
    Counted,
    Excluding,
    Invoice,
    Keeping,
    LargerLine,
    Level,
    Line,
    Pair,
    Point,
    Settings,
    Weighed,
    invoice,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# `fold` counts neither for equality nor, without a zone, for anything else: it is not kept.
moments = st.datetimes(timezones=st.none() | st.just(UTC)).map(lambda moment: moment.replace(fold=0))
times = st.times().map(lambda moment: moment.replace(fold=0))
spans = st.timedeltas(min_value=timedelta(days=-99_999), max_value=timedelta(days=99_999))
numbers = st.decimals(allow_nan=False, allow_infinity=False)
json_atoms = st.none() | st.booleans() | st.integers() | st.floats() | text
json_values = st.recursive(
    json_atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.just("$bytes"), inner, max_size=3)
)
lines = st.builds(Line, amount=numbers, due=moments, colour=st.sampled_from(Colour))
points = st.builds(Point, x=st.integers(), y=st.floats(), tags=st.lists(text))
atoms = json_atoms | st.binary() | moments | st.dates() | times | spans | numbers | st.uuids() | lines | points
any_values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.just("$dict"), inner, max_size=3)
)


def says_the_same(value: object, other: object) -> bool:
    """`repr` tells kinds apart, 1 from True and -0.0 from 0.0, and shows two NaN as the same."""
    return type(value) is type(other) and shown(value) == shown(other)


def shown(value: object) -> str:
    """Sets have an order of their own, and pydantic's UTC prints in another way than Python's."""
    if isinstance(value, set | frozenset):
        return str(sorted(map(repr, cast("set[object]", value))))
    return repr(value).replace("TzInfo(0)", "datetime.timezone.utc")


@given(any_values)
def test_without_an_annotation_a_value_comes_back_as_it_was(value: Any) -> None:
    assert says_the_same(ANY.decode(ANY.encode(value)), value)


@given(json_values)
def test_json_comes_back_through_dict_and_any(value: Any) -> None:
    codec = codec_for(dict[str, Any])
    assert says_the_same(codec.decode(codec.encode({"value": value})), {"value": value})


@given(json_values)
def test_what_is_recorded_is_json_text(value: Any) -> None:
    raw = ANY.encode(value)
    assert raw.decode("utf-8")
    assert b"\n" not in raw


ANNOTATED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, text),
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats()),
    (None, st.none()),
    (bytes, st.binary()),
    (datetime, moments),
    (date, st.dates()),
    (time, times),
    (timedelta, spans),
    (Decimal, numbers),
    (UUID, st.uuids()),
    (Path, st.just(Path("/srv/x"))),
    (IPv4Address, st.ip_addresses(v=4)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Annotated[int, Field(ge=0, json_schema_extra={"unit": "ms"})], st.integers(min_value=0)),
    (Annotated[str, {"no": "hash"}], text),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (int | str, st.integers() | text),
    (int | None, st.none() | st.integers()),
    (list[int], st.lists(st.integers())),
    (list[bytes], st.lists(st.binary())),
    (list[float], st.lists(st.floats())),
    (tuple[int, str], st.tuples(st.integers(), text)),
    (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    (set[int], st.sets(st.integers())),
    (frozenset[str], st.frozensets(text)),
    (dict[str, list[bool]], st.dictionaries(text, st.lists(st.booleans()))),
    (dict[int, str], st.dictionaries(st.integers(), text)),
    (deque[int], st.lists(st.integers()).map(deque)),
    (Sequence[int], st.lists(st.integers())),
    (Line, lines),
    (list[Line] | None, st.none() | st.lists(lines)),
    (Invoice, st.builds(invoice, text, lines)),
    (Point, points),
    (Pair, st.builds(Pair, st.integers(), text)),
    (Settings, st.builds(Settings, size=st.integers(), extra=st.dictionaries(text, json_atoms))),
    (Settings, st.builds(Settings)),
    (Base64Blob, st.builds(Base64Blob, content=st.binary(), weight=st.floats())),
    (Any, any_values),
    (object, any_values),
]


@pytest.mark.parametrize(("annotation", "values"), ANNOTATED, ids=lambda part: getattr(part, "__name__", None))
@given(data=st.data())
def test_an_annotated_value_comes_back_as_it_was(
    annotation: Any, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    codec = codec_for(annotation)
    value = data.draw(values)
    assert says_the_same(codec.decode(codec.encode(value)), value)


class SubStr(str):
    pass


class SubList(list[int]):
    pass


UNANNOTATED_REFUSED: list[Any] = [
    (1, 2),
    {1},
    frozenset[int](),
    {1: "one"},
    {"a": [(1,)]},
    SubStr("x"),
    SubList(),
    OrderedDict(a=1),
    defaultdict(int),
    Level.LOW,
    Colour.RED,
    {Colour.RED: 1},
    1j,
    bytearray(b"x"),
    object(),
    Lock(),
    Line,
    len,
    SecretStr("x"),
    "half a character: \ud800",
    10**5000,
    Counted(x=1).see(),
    Excluding(shown=1),
    Keeping(token=SecretStr("x")),
    Pair(1, "a"),
]


@pytest.mark.parametrize("value", UNANNOTATED_REFUSED, ids=lambda value: type(value).__name__)
def test_without_an_annotation_what_would_change_is_refused(value: Any) -> None:
    with pytest.raises(NotRecordable):
        ANY.encode(value)
    with pytest.raises(NotRecordable):
        ANY.encode({"deep": [value]})


ANNOTATED_REFUSED: list[tuple[Any, Any]] = [
    (None, 5),
    (int, "5"),
    (int, True),
    (int, 1.0),
    (int, Level.LOW),
    (int, 10**5000),
    (str, 5),
    (str, SubStr("x")),
    (str, b"x"),
    (str, "half a character: \ud800"),
    (bool, 1),
    (float, True),
    (float, 2**53 + 1),
    (Annotated[int, Field(ge=0)], -1),
    (list[int], (1, 2)),
    (list[int], [1, True]),
    (list[str], ["a", SubStr("b")]),
    (tuple[int, ...], [1]),
    (set[int], {1, True + 1.0}),
    (dict[str, Any], {"at": datetime(2026, 1, 1, tzinfo=UTC)}),
    (dict[str, Any], {"pair": (1, 2)}),
    (dict[str, Any], {1: 2}),
    (dict[str, Any], OrderedDict(a=1)),
    (dict[str, Any], {"level": Level.LOW}),
    (dict[str, Any], {"secret": SecretStr("x")}),
    (Line, LargerLine(amount=Decimal(1), due=datetime(2026, 1, 1, tzinfo=UTC), more=5)),
    (Line, {"amount": Decimal(1), "due": datetime(2026, 1, 1, tzinfo=UTC)}),
    (list[Line], [LargerLine(amount=Decimal(1), due=datetime(2026, 1, 1, tzinfo=UTC))]),
    (Counted, Counted(x=1).see()),
    (Secret[int], Secret(5)),
    (Blob, Blob(content=b"\xff")),
    (Weighed, Weighed(weight=math.nan)),
    (Decimal, Decimal("NaN")),
    (datetime | str, "2026-01-01T00:00:00"),
    (Sequence[int], (1, 2)),
]


@pytest.mark.parametrize(("annotation", "value"), ANNOTATED_REFUSED, ids=lambda part: type(part).__name__)
def test_a_value_that_would_come_back_changed_is_refused(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    with pytest.raises(NotRecordable):
        codec.encode(value)


class Handles(BaseModel):
    token: list[SecretStr]


@pytest.mark.parametrize(
    "annotation",
    [
        SecretStr,
        SecretBytes,
        dict[str, SecretStr | None],
        Keeping,
        Handles,
        Excluding,
        list[Excluding],
        Callable[[], int],
        Iterator[int],
        Lock,
        type[int],
    ],
    ids=str,
)
def test_an_annotation_that_cannot_be_recorded_is_refused_before_there_is_a_value(annotation: Any) -> None:
    with pytest.raises(NotRecordable):
        codec_for(annotation, "The result of step 'login'")


def test_the_refusal_names_the_place_and_what_would_happen() -> None:
    codec = codec_for(dict[str, Any], "The result of step 'fetch'")
    with pytest.raises(NotRecordable) as refused:
        codec.encode({"points": [{"at": (1, 2)}]})
    assert refused.value.what == "The result of step 'fetch'['points'][0]['at']"
    assert refused.value.why == "a tuple would come back as a list."


def test_the_refusal_without_an_annotation_advises_one() -> None:
    with pytest.raises(NotRecordable, match="Annotate what the function returns"):
        ANY.encode((1, 2))


def test_the_refusal_of_bytes_in_a_model_says_how_to_allow_them() -> None:
    with pytest.raises(NotRecordable, match="ser_json_bytes='base64'"):
        codec_for(Blob).encode(Blob(content=b"\xff"))


def test_a_float_may_be_given_as_an_int() -> None:
    codec = codec_for(float)
    assert codec.decode(codec.encode(1)) == 1.0


def test_a_time_keeps_its_offset_and_not_the_name_of_its_zone() -> None:
    berlin = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    repeated = berlin.replace(fold=1)
    for codec in (ANY, codec_for(datetime)):
        assert codec.decode(codec.encode(berlin)).utcoffset() == timedelta(hours=2)
        assert codec.decode(codec.encode(repeated)).utcoffset() == timedelta(hours=1)
        assert codec.decode(codec.encode(repeated)).replace(tzinfo=None) == repeated.replace(tzinfo=None, fold=0)
    odd = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert ANY.decode(ANY.encode(odd)) == odd


def test_a_local_class_is_refused_where_its_name_must_find_it() -> None:
    class Local(BaseModel):
        x: int

    with pytest.raises(NotRecordable, match="top of a module"):
        ANY.encode(Local(x=1))
    codec = codec_for(Local)
    assert codec.decode(codec.encode(Local(x=1))) == Local(x=1)


def test_a_record_that_no_longer_fits_the_annotation_is_a_divergence() -> None:
    raw = codec_for(dict[str, int]).encode({"amount": 5})
    with pytest.raises(Diverged) as diverged:
        codec_for(Line, "The result of step 'fetch'").decode(raw)
    assert '{"amount":5}' in diverged.value.recorded
    assert "due" in diverged.value.asked


def test_a_record_of_a_class_that_is_gone_is_a_divergence() -> None:
    raw = ANY.encode(Point(1)).replace(b"records:Point", b"records:Moved")
    with pytest.raises(Diverged, match="Moved"):
        ANY.decode(raw)


@pytest.mark.parametrize("name", ["os:system", "builtins:print", "builtins:int", "tests.core.records:Declined"])
def test_only_models_are_made_by_their_name(name: str) -> None:
    with pytest.raises(Diverged):
        ANY.decode(b'{"$model":["%b","x"]}' % name.encode())


def test_a_value_deeper_than_json_can_be_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    for codec in (ANY, codec_for(list[Any])):
        with pytest.raises(NotRecordable):
            codec.encode(deep)


def test_a_name_that_is_not_defined_yet_is_told_from_one_that_cannot_be_recorded() -> None:
    with pytest.raises(NameError):
        codec_for(list["Nowhere"])  # pyright: ignore[reportUndefinedVariable]  # noqa: F821  that is the point
