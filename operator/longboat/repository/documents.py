"""Sealed documents (manifests, tombstones, leases): a header and one frame of compressed JSON."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from .codec import compress, decompress
from .crypto import FRAME_OVERHEAD, HEADER_BYTES, ObjectCipher, RepositoryKeys, parse_header
from .errors import DamagedError
from .layout import MAX_DOCUMENT, MAX_DOCUMENT_VALUES, Kind
from .wire import Wire

MAX_DOCUMENT_OBJECT = MAX_DOCUMENT + HEADER_BYTES + FRAME_OVERHEAD


class Document(Wire):
    """Base of the documents' models: camelCase JSON, unknown fields of the same version are ignored."""


D = TypeVar("D", bound=Document)


def seal_document(keys: RepositoryKeys, kind: Kind, object_id: bytes, document: Document) -> bytes:
    """Return the object that holds a document; object_id is 16 fresh random bytes."""
    plain = document.model_dump_json(by_alias=True).encode()
    if len(plain) > MAX_DOCUMENT:
        raise ValueError(f"a document of {len(plain)} bytes is larger than the format allows ({MAX_DOCUMENT})")
    if _values(plain) > MAX_DOCUMENT_VALUES:
        raise ValueError(f"a document of more values than the format allows ({MAX_DOCUMENT_VALUES})")
    cipher = ObjectCipher(keys, kind, object_id)
    payload, codec = compress(plain)
    out = bytearray(HEADER_BYTES + FRAME_OVERHEAD + len(payload))
    out[:HEADER_BYTES] = cipher.header
    cipher.seal_into(memoryview(out)[HEADER_BYTES:], HEADER_BYTES, payload, len(plain), codec)
    return bytes(out)


def open_document(keys: RepositoryKeys, kind: Kind, data: bytes, model: type[D]) -> tuple[bytes, D]:
    """Return object id and document of an object; it is authenticated before anything in it is parsed.

    DamagedError if it was altered or does not fit the model.
    """
    object_id = parse_header(data, kind, keys)
    payload, length, codec = ObjectCipher(keys, kind, object_id).open(memoryview(data)[HEADER_BYTES:], HEADER_BYTES)
    if length > MAX_DOCUMENT:
        raise DamagedError(f"a document of {length} bytes is larger than the format allows ({MAX_DOCUMENT})")
    plain = decompress(payload, codec, length)
    # Each value costs the parser hundreds of bytes, so that a document within bounds could still take all memory.
    if _values(plain) > MAX_DOCUMENT_VALUES:
        raise DamagedError(f"a document of more values than the format allows ({MAX_DOCUMENT_VALUES})")
    try:
        # Parsed first, validated then: errors of validation hold each the whole input, which here they share.
        return object_id, model.model_validate(from_json(plain, allow_inf_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise DamagedError(f"a {kind.name} breaks the format: {first['loc']}: {first['msg']}") from None
    except ValueError as error:
        raise DamagedError(f"a {kind.name} is no JSON: {error}") from None


def _values(plain: bytes) -> int:
    """Return at least how many values a JSON text has."""
    return plain.count(b",") + plain.count(b"[") + plain.count(b"{")
