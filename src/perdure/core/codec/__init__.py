"""Everything that is recorded, as bytes: values, errors, events, and the digests of arguments.

Payloads are JSON text. What comes back is equal to what went in and of the same kind, or it was refused
with `NotRecordable` when it went in.
"""

from __future__ import annotations

from perdure.core.codec.digest import digest
from perdure.core.codec.errors import (
    decode_error,
    describe_error,
    encode_error,
    encode_step_error,
    error_message,
    error_type,
    words_of,
)
from perdure.core.codec.events import decode_event, encode_event
from perdure.core.codec.names import class_named, import_name, name_of
from perdure.core.codec.returns import awaits, plain_function, return_annotation
from perdure.core.codec.text import is_unicode, recordable
from perdure.core.codec.values import ANY, ValueCodec, codec_for

__all__ = [
    "ANY",
    "ValueCodec",
    "awaits",
    "class_named",
    "codec_for",
    "decode_error",
    "decode_event",
    "describe_error",
    "digest",
    "encode_error",
    "encode_event",
    "encode_step_error",
    "error_message",
    "error_type",
    "import_name",
    "is_unicode",
    "name_of",
    "plain_function",
    "recordable",
    "return_annotation",
    "words_of",
]
