"""The message classes of `protos/`, by full name; and generic handlers from service descriptors. Not for: what calls do."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

TORCHSERVE_OIP = "org.pytorch.serve.grpc.openinference"
KSERVE_OIP = "inference"  # the package that KServe's and Triton's clients call; otherwise the same protocol


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """A pool of our own, so that a user's generated modules can live beside it in one process."""
    files = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "protos" / "all.binpb").read_bytes())
    made = descriptor_pool.DescriptorPool()
    for file in files.file:
        made.Add(file)
        if file.package == TORCHSERVE_OIP:
            made.Add(_renamed(file))
    return made


def _renamed(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    text = file.SerializeToString()
    copy = descriptor_pb2.FileDescriptorProto.FromString(text)
    copy.name, copy.package = "kserve_" + file.name, KSERVE_OIP

    def rename(message: Any) -> None:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(f".{TORCHSERVE_OIP}.", f".{KSERVE_OIP}.")
        for nested in message.nested_type:
            rename(nested)

    for message in copy.message_type:
        rename(message)
    for service in copy.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{TORCHSERVE_OIP}.", f".{KSERVE_OIP}.")
            method.output_type = method.output_type.replace(f".{TORCHSERVE_OIP}.", f".{KSERVE_OIP}.")
    return copy


@cache
def message(full_name: str) -> type[Message]:
    made: type[Message] = message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))
    return made


def service(full_name: str, methods: Mapping[str, Callable[..., Any]]) -> grpc.GenericRpcHandler:
    """A handler for the service whose every method is in `methods`, streaming as the contract says."""
    described = pool().FindServiceByName(full_name)
    handlers = {}
    for method in described.methods:
        make = getattr(grpc, f"{_side(method.client_streaming)}_{_side(method.server_streaming)}_rpc_method_handler")
        handlers[method.name] = make(
            methods[method.name],
            request_deserializer=message(method.input_type.full_name).FromString,
            response_serializer=message(method.output_type.full_name).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(full_name, handlers)


def stub(channel: Any, full_name: str, method_name: str) -> Any:
    """The callable of one method on a client's channel."""
    method = pool().FindServiceByName(full_name).FindMethodByName(method_name)
    make = getattr(channel, f"{_side(method.client_streaming)}_{_side(method.server_streaming)}")
    return make(
        f"/{full_name}/{method_name}",
        request_serializer=message(method.input_type.full_name).SerializeToString,
        response_deserializer=message(method.output_type.full_name).FromString,
    )


def _side(streaming: bool) -> str:
    return "stream" if streaming else "unary"
