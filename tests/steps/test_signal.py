"""A signal says what may be sent, to those with its class and to those without."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import BaseModel, Field

from perdure.errors import Diverged, NotRecordable, Refused
from perdure.signal import Signal


class Decision(BaseModel):
    approved: bool
    reason: str | None = Field(default=None, alias="why")


decision = Signal("decision", Decision, once=True)
force = Signal("force", bool)


def test_what_is_sent_is_what_is_received() -> None:
    sent = Decision(approved=True, why="cheap")
    assert decision.decode(decision.encode(sent)) == sent
    assert force.decode(force.encode(True)) is True


def test_a_value_of_another_shape_is_refused_when_it_is_sent() -> None:
    with pytest.raises(Refused, match="'decision'") as refused:
        decision.encode(cast("Decision", {"approved": "perhaps"}))
    assert "approved" in str(refused.value)


def test_what_has_the_shape_is_taken_for_the_type() -> None:
    assert decision.decode(decision.encode(cast("Decision", {"approved": True}))) == Decision(approved=True)


def test_its_schema_fits_what_is_sent_under_the_names_of_fields() -> None:
    spec = decision.spec
    assert (spec.name, spec.once) == ("decision", True)
    assert set(cast("dict[str, Any]", spec.schema["properties"])) == {"approved", "reason"}
    assert decision.decode(b'{"approved":false,"reason":"dear"}').reason == "dear"
    assert force.spec.schema == {"type": "boolean"}


def test_what_does_not_fit_any_more_is_a_divergence() -> None:
    with pytest.raises(Diverged, match="decision"):
        decision.decode(b'{"approved":"perhaps"}')


def test_a_type_that_cannot_be_recorded_is_refused_when_it_is_declared() -> None:
    with pytest.raises(NotRecordable, match="Signal 'odd'"):
        Signal("odd", type[int])


def test_a_signal_has_a_name() -> None:
    with pytest.raises(ValueError):
        Signal("", bool)
