"""A key names a call by its arguments: asking again under the same key is asking for the same call."""

from typing import Any

import pytest
from pydantic import BaseModel

from perdure.key import key_of


class Invoice(BaseModel):
    invoice_id: str
    lines: list[str]


forecast = ("latitude", "longitude")
process = ("invoice", "note")


def test_a_template_is_filled_in_with_the_arguments() -> None:
    render = key_of("forecast-{latitude}-{longitude:.1f}", forecast)
    assert render({"latitude": 47.5, "longitude": -122.33}) == "forecast-47.5--122.3"


def test_a_template_reaches_attributes_and_items() -> None:
    invoice = Invoice(invoice_id="7", lines=["hosting"])
    assert key_of("{invoice.invoice_id}/{invoice.lines[0]}", process)({"invoice": invoice}) == "7/hosting"


def test_a_template_without_fields_is_the_key() -> None:
    assert key_of("nightly {{report}}", process)({"invoice": None}) == "nightly {report}"


def test_a_function_is_given_the_parameters_it_names() -> None:
    def of_invoice(invoice: Invoice, prefix: str = "invoice") -> str:
        return f"{prefix}-{invoice.invoice_id}"

    arguments: dict[str, Any] = {"invoice": Invoice(invoice_id="7", lines=[]), "note": "urgent"}
    assert key_of(of_invoice, process)(arguments) == "invoice-7"


def test_a_function_of_everything_is_given_everything() -> None:
    def of_all(**arguments: Any) -> str:
        return "+".join(sorted(arguments))

    assert key_of(of_all, process)({"invoice": None, "note": ""}) == "invoice+note"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("forecast-{place}", "'place', which is no parameter. There are: latitude, longitude"),
        ("forecast-{}", "'', which is no parameter"),
        ("forecast-{0}", "'0', which is no parameter"),
        ("forecast-{latitude:{width}}", "'width', which is no parameter"),
        ("forecast-{latitude.__class__}", "two underscores"),
        ("forecast-{latitude[__class__]}", "two underscores"),
        ("forecast-{latitude:{longitude.__class__}}", "two underscores"),
        ("forecast-{latitude", "expected '}'"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused_when_it_is_registered(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".*") as refused:
        key_of(template, forecast)
    assert complaint in str(refused.value)


def test_a_function_that_wants_something_else_is_refused_when_it_is_registered() -> None:
    def of_place(place: str) -> str:
        return place

    with pytest.raises(ValueError, match="place"):
        key_of(of_place, forecast)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        key_of("{note}", process)({"note": ""})
