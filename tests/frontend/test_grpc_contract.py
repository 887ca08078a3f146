"""Our gRPC contracts are the originals': TorchServe's as a table of facts, KServe's as its SDK was compiled from them."""

import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as kserve

from flambeau.frontend.grpc_api.messages import pool

from . import originals

MESSAGES = [
    (package, name) for package, messages in originals.MESSAGES.items() if package != "google.rpc" for name in messages
]


def facts(message):
    """Of each field what stands on the wire."""
    return {field.name: (field.number, field.type, field.is_repeated) for field in message.fields}


@pytest.mark.parametrize(("package", "name"), MESSAGES, ids=lambda text: text.rpartition(".")[2])
def test_a_message_is_torchserves(package, name):
    original = originals.message_types()[f"{package}.{name}"].DESCRIPTOR

    assert facts(pool().FindMessageTypeByName(f"{package}.{name}")) == facts(original)


@pytest.mark.parametrize("service", originals.METHODS)
def test_a_service_is_torchserves(service):
    package = "." + service.rpartition(".")[0]
    ours = {
        method.name: (
            f".{method.input_type.full_name}".removeprefix(f"{package}."),
            f".{method.output_type.full_name}".removeprefix(f"{package}."),
            f"{side(method.client_streaming)}_{side(method.server_streaming)}",
        )
        for method in pool().FindServiceByName(service).methods
    }

    assert ours == originals.METHODS[service]


@pytest.mark.parametrize("package", ["inference", "org.pytorch.serve.grpc.openinference"])
def test_open_inference_is_kserves(package):
    originals_of = [
        message
        for top in kserve.DESCRIPTOR.message_types_by_name.values()
        if not top.name.startswith("Repository")  # loading and unloading, which is the management API's here
        for message in (top, *top.nested_types)
    ]
    assert len(originals_of) >= 20

    for original in originals_of:
        ours = pool().FindMessageTypeByName(original.full_name.replace("inference", package, 1))
        assert facts(ours) == facts(original), original.full_name


def side(streaming):
    return "stream" if streaming else "unary"
