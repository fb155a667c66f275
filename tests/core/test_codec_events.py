"""Every kind of event is a frame that comes back as it was, and that later versions can go on reading."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.codec import decode_event, encode_event
from perdure.core.codec.events import KINDS
from perdure.core.events import ChildEnded, Completed, Event, Started, StepLate, StepReturned, TimerFired
from perdure.errors import StorageCorrupt, StorageError

text = st.text(st.characters(exclude_categories=["Cs"]))
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": text,
    "int": st.integers(min_value=0),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(),
    "bytes | None": st.none() | st.binary(),
}


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    values = {field.name: BY_TYPE[str(field.type)] for field in fields(kind)}
    if kind is ChildEnded:  # one of the two is there
        return st.builds(kind, **{**values, "value": st.none()}) | st.builds(kind, **{**values, "error": st.none()})
    return st.builds(kind, **values)


def test_every_kind_of_event_has_a_name() -> None:
    assert set(KINDS.values()) == set(get_args(Event))
    assert len(set(KINDS)) == len(get_args(Event))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_it_comes_back_as_it_was(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(events_of(kind))
    assert decode_event(encode_event(event)) == event


@given(st.integers(min_value=0, max_value=2**128), st.floats(min_value=0, max_value=2**40))
def test_seeds_and_times_keep_every_bit(seed: int, at: float) -> None:
    event = decode_event(encode_event(Started(at, seed, "3.11")))
    assert isinstance(event, Started)
    assert (event.seed, event.at.hex()) == (seed, at.hex())


def test_an_empty_payload_is_not_a_missing_one() -> None:
    for error in (None, b"", b"{}"):
        event = StepLate("0/1", "pay", error, 1, 1.0, 2.0)
        assert decode_event(encode_event(event)) == event
    for value, error in ((b"", None), (None, b""), (None, None)):
        event = ChildEnded("0/1", "c1", value, error, 1.0)
        assert decode_event(encode_event(event)) == event


def test_a_frame_is_a_line_of_json_and_the_payload_as_it_is() -> None:
    raw = encode_event(StepReturned("0/1", "fetch", "0123456789abcdef", b'{"a":1}\n', 1, 1.5, 2.25))
    assert raw == b'1["step-returned","0/1","fetch","0123456789abcdef",1,1.5,2.25]\n{"a":1}\n'


def test_a_step_costs_at_most_200_bytes_beside_its_payload() -> None:
    place, name = "0.12.3/456", "Invoices.find_payment_by_key"
    raw = encode_event(StepReturned(place, name, "0123456789abcdef", b"", 12, 1790000000.123456, 1790000001.123456))
    assert len(raw) <= 200


FOR_EVER = {
    b'1["started",1790000000.5,340282366920938463463374607431768211455,"3.11"]\n': Started(
        1790000000.5, 2**128 - 1, "3.11"
    ),
    b'1["step-returned","0/1","fetch","ab",2,1.0,2.0]\n"x"': StepReturned("0/1", "fetch", "ab", b'"x"', 2, 1.0, 2.0),
    b'1["step-late","0/1","fetch",1,1.0,2.0,null]\n': StepLate("0/1", "fetch", None, 1, 1.0, 2.0),
    b'1["child-ended","0/1","c1",3.0,3]\n{}': ChildEnded("0/1", "c1", None, b"{}", 3.0),
    b'1["timer-fired","0/t1",5.0]\n': TimerFired("0/t1", 5.0),
    b'1["completed",5.0]\nnull': Completed(b"null", 5.0),
}


@pytest.mark.parametrize("raw", FOR_EVER, ids=lambda raw: raw.split(b'"')[1].decode())
def test_frames_of_this_version_are_read_for_ever(raw: bytes) -> None:
    assert decode_event(raw) == FOR_EVER[raw]


@pytest.mark.parametrize("raw", [b'1["teleported",1.0]\n', b'2["completed",5.0]\nnull', b"9"])
def test_what_a_newer_version_wrote_says_to_upgrade(raw: bytes) -> None:
    with pytest.raises(StorageError, match="newer perdure"):
        decode_event(raw)


@pytest.mark.parametrize(
    "raw",
    [b"", b"SQLite", b"1", b"1\n", b"1{}\n", b"1[]\n", b'1["completed"]\n', b'1["completed",5.0]', b'1["completed",\n'],
)
def test_what_is_no_event_is_corrupt(raw: bytes) -> None:
    with pytest.raises(StorageCorrupt):
        decode_event(raw)


@given(st.binary(max_size=60))
def test_noise_is_an_error_and_never_a_crash(noise: bytes) -> None:
    with pytest.raises(StorageError):
        decode_event(noise)


def test_a_cut_frame_is_never_taken_for_a_whole_header() -> None:
    raw = encode_event(StepReturned("0/1", "fetch", "ab", b"payload", 1, 1.0, 2.0))
    for length in range(raw.index(b"\n") + 1):
        with pytest.raises(StorageError):
            decode_event(raw[:length])
