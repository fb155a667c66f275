"""Records: values that nobody changes, of which each call makes many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


# Frozen for the type checker alone. `dataclass(frozen=True)` assigns each field by a call, which was a tenth of what a
# call computes, and generates methods for each class, which was half of what importing perdure takes.


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots, compared and hashed by its fields. Type checkers refuse to change one."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def keyword_record(cls: type[T]) -> type[T]:
    """A record that is made with keywords alone."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=True)(cls)
