"""Classes that tests record: they must be found by name, so they are at the top of a module."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field
from typing_extensions import TypedDict


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    amount: Decimal
    due: datetime
    colour: Colour = Colour.RED

    @computed_field
    @property
    def is_large(self) -> bool:
        return self.amount > 100


class Invoice(BaseModel):
    """Has what often goes wrong: other names on the wire, other lines inside, something optional."""

    number: str = Field(validation_alias="invoiceNumber", serialization_alias="invoice_no")
    lines: list[Line] = []
    note: str | None = None


def invoice(number: str, *lines: Line) -> Invoice:
    return Invoice.model_validate({"invoiceNumber": number, "lines": lines})


class LargerLine(Line):
    more: int = 0


class Counted(BaseModel):
    x: int
    _seen: int = PrivateAttr(default=0)

    def see(self) -> Counted:
        self._seen += 1
        return self


class Blob(BaseModel):
    content: bytes


class Weighed(BaseModel):
    weight: float | None


class Base64Blob(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
    content: bytes
    weight: float = 0.0


class Excluding(BaseModel):
    shown: int
    hidden: int = Field(default=0, exclude=True)


class Keeping(BaseModel):
    token: SecretStr


@dataclass
class Point:
    x: int
    y: float = 0.0
    tags: list[str] = field(default_factory=list[str])


class Pair(NamedTuple):
    left: int
    right: str


class Settings(TypedDict, total=False):
    size: int
    extra: dict[str, Any]


# --- errors -----------------------------------------------------------------------------------------


class Declined(Exception):
    """An `__init__` of its own, and a text that is not its arguments."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class HoldsClient(Exception):
    def __init__(self, client: object) -> None:
        super().__init__("the client broke")
        self.client = client


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Several(ExceptionGroup[Exception]):
    pass
