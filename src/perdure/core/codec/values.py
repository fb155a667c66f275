"""How a value is recorded: through its annotation, or tagged with its type where there is none."""

from __future__ import annotations

from inspect import Signature
from typing import Any, Protocol, TypeVar

from perdure.core.codec.annotated import AnnotatedCodec
from perdure.core.codec.tagged import TaggedCodec

T = TypeVar("T")


class ValueCodec(Protocol[T]):
    """Values of one kind as bytes; live and replayed values both take this way."""

    def encode(self, value: T) -> bytes:
        """Raises `NotRecordable` for a value that would not come back equal and of the same kind."""
        ...

    def decode(self, raw: bytes) -> T:
        """Raises `Diverged`: what is recorded no longer fits the code."""
        ...

    def accept(self, value: Any) -> T:
        """The value from outside as what is taken here, if it can be; raises pydantic's `ValidationError`."""
        ...

    def json_schema(self) -> dict[str, Any]: ...


ANY: ValueCodec[Any] = TaggedCodec("A value")


def codec_for(annotation: Any, what: str = "A value") -> ValueCodec[Any]:
    """The codec of an annotation, checked now: raises `NotRecordable`. `what` it is for goes into errors.

    No annotation, `Any` and `object` leave it to each value to say what it is. A name in it that is not defined
    (yet) raises `NameError`.
    """
    if annotation in (Any, object, Signature.empty) or isinstance(annotation, TypeVar):
        return TaggedCodec(what)
    return AnnotatedCodec(annotation, what)
