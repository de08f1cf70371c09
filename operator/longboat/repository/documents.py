"""Sealed documents (manifests, tombstones, leases): a header and one frame of compressed JSON."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from .codec import compress, decompress
from .crypto import FRAME_OVERHEAD, HEADER_BYTES, ObjectCipher, RepositoryKeys, parse_header
from .errors import DamagedError
from .layout import MAX_DOCUMENT, Kind

MAX_DOCUMENT_OBJECT = MAX_DOCUMENT + HEADER_BYTES + FRAME_OVERHEAD


class Document(BaseModel):
    """Base of the documents' models: camelCase JSON, unknown fields of the same version are ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        # A short program builds only the models that it uses.
        defer_build=True,
    )


D = TypeVar("D", bound=Document)


def seal_document(keys: RepositoryKeys, kind: Kind, object_id: bytes, document: Document) -> bytes:
    """Return the object that holds a document; object_id is 16 fresh random bytes."""
    plain = document.model_dump_json(by_alias=True).encode()
    if len(plain) > MAX_DOCUMENT:
        raise ValueError(f"a document of {len(plain)} bytes is larger than the format allows ({MAX_DOCUMENT})")
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
    try:
        return object_id, model.model_validate_json(decompress(payload, codec, length))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(f"a {kind.name} breaks the format: {first['loc']}: {first['msg']}") from None
