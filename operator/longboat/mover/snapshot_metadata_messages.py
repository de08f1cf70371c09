"""The messages of the SnapshotMetadata service, as far as a client needs them; their classes are made at import.

On the wire a message is field numbers and values alone: names here are our own. The service's numbers are fixed by its
published API; fields that are not listed are skipped by the decoder.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "snapshotmetadata.SnapshotMetadata"
_PACKAGE = "longboat.mover"

# Message → field → its number and type; a type that is no basic one is a repeated message.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Range": {"byte_offset": (1, "INT64"), "size_bytes": (2, "INT64")},
    "Answer": {"volume_capacity_bytes": (2, "INT64"), "block_metadata": (3, "Range")},
    "AllocatedRequest": {
        "security_token": (1, "STRING"),
        "namespace": (2, "STRING"),
        "snapshot_name": (3, "STRING"),
        "starting_offset": (4, "INT64"),
        "max_results": (5, "INT32"),
    },
    "DeltaRequest": {
        "security_token": (1, "STRING"),
        "namespace": (2, "STRING"),
        "base_snapshot_id": (3, "STRING"),
        "target_snapshot_name": (4, "STRING"),
        "starting_offset": (5, "INT64"),
        "max_results": (6, "INT32"),
    },
}


def _field(name: str, number: int, kind: str) -> FieldDescriptorProto:
    if kind in _MESSAGES:
        return FieldDescriptorProto(
            name=name,
            number=number,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".{_PACKAGE}.{kind}",
            label=FieldDescriptorProto.LABEL_REPEATED,
        )
    basic = FieldDescriptorProto.Type.Value(f"TYPE_{kind}")
    return FieldDescriptorProto(name=name, number=number, type=basic, label=FieldDescriptorProto.LABEL_OPTIONAL)


def _classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="longboat/mover/snapshot_metadata.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        added.field.extend(_field(name, number, kind) for name, (number, kind) in fields.items())
    # A pool of our own: the process-wide one may hold the same names from somebody else.
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES}


_made = _classes()
Answer: Any = _made["Answer"]
AllocatedRequest: Any = _made["AllocatedRequest"]
DeltaRequest: Any = _made["DeltaRequest"]
