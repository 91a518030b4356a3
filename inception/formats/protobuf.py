"""Protobuf messages of weight files, from the few fields of them that readers need."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def message_class(messages: Mapping[str, str], name: str) -> Any:
    """The class of message `name`.

    Args:
        messages: each message's fields, as in 'optional string name = 1; repeated Blob b = 2',
            where kinds are protobuf's or other messages. Fields that are not named are skipped.
    """
    file = descriptor_pb2.FileDescriptorProto(name="weights.proto", package="w", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in messages.items():
        described = file.message_type.add(name=message)
        for line in fields.split(";"):
            label, kind, field_name, _, number = line.split()
            field = described.field.add(name=field_name, number=int(number))
            field.label = kinds.Label.Value(f"LABEL_{label.upper()}")
            if kind in messages:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".w.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
                field.options.packed = label == "repeated" and kind not in ("string", "bytes")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"w.{name}"))
