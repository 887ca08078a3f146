"""TorchServe's gRPC contracts as facts, read off the .proto files inside the model-server.jar of 0.12.0, and clients made of them.

Names, numbers and kinds are what a client compiled from those files sends: nothing here comes from `frontend/grpc_api`.
"""

from types import SimpleNamespace

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, message_factory

INFERENCE, MANAGEMENT = "org.pytorch.serve.grpc.inference", "org.pytorch.serve.grpc.management"
EMPTY, STATUS = ".google.protobuf.Empty", ".google.rpc.Status"

# package → message → fields, each with its number and kind
MESSAGES = {
    "google.rpc": {"Status": {"code": (1, "int32"), "message": (2, "string")}},
    INFERENCE: {
        "PredictionsRequest": {
            "model_name": (1, "string"), "model_version": (2, "string"), "input": (3, "map"), "sequence_id": (4, "string"),
        },
        "PredictionResponse": {"prediction": (1, "bytes"), "sequence_id": (2, "string"), "status": (3, STATUS)},
        "TorchServeHealthResponse": {"health": (1, "string")},
    },
    MANAGEMENT: {
        "ManagementResponse": {"msg": (1, "string")},
        "DescribeModelRequest": {"model_name": (1, "string"), "model_version": (2, "string"), "customized": (3, "bool")},
        "ListModelsRequest": {"limit": (1, "int32"), "next_page_token": (2, "int32")},
        "RegisterModelRequest": {
            "batch_size": (1, "int32"), "handler": (2, "string"), "initial_workers": (3, "int32"),
            "max_batch_delay": (4, "int32"), "model_name": (5, "string"), "response_timeout": (6, "int32"),
            "runtime": (7, "string"), "synchronous": (8, "bool"), "url": (9, "string"), "s3_sse_kms": (10, "bool"),
            "startup_timeout": (11, "int32"),
        },
        "ScaleWorkerRequest": {
            "model_name": (1, "string"), "model_version": (2, "string"), "max_worker": (3, "int32"),
            "min_worker": (4, "int32"), "number_gpu": (5, "int32"), "synchronous": (6, "bool"), "timeout": (7, "int32"),
        },
        "SetDefaultRequest": {"model_name": (1, "string"), "model_version": (2, "string")},
        "UnregisterModelRequest": {"model_name": (1, "string"), "model_version": (2, "string")},
    },
}  # fmt: skip

# service → method → what it takes and gives, and which of the two are streams
METHODS = {
    f"{INFERENCE}.InferenceAPIsService": {
        "Ping": (EMPTY, "TorchServeHealthResponse", "unary_unary"),
        "Predictions": ("PredictionsRequest", "PredictionResponse", "unary_unary"),
        "StreamPredictions": ("PredictionsRequest", "PredictionResponse", "unary_stream"),
        "StreamPredictions2": ("PredictionsRequest", "PredictionResponse", "stream_stream"),
    },
    f"{MANAGEMENT}.ManagementAPIsService": {
        name: (f"{name}{ending}Request", "ManagementResponse", "unary_unary")
        for name, ending in (
            ("DescribeModel", ""), ("ListModels", ""), ("RegisterModel", ""), ("ScaleWorker", ""), ("SetDefault", ""),
            ("UnregisterModel", ""),
        )
    },
}  # fmt: skip

Field = descriptor_pb2.FieldDescriptorProto


def message_types():
    """full name → class, made of the table above."""
    pool = descriptor_pool.DescriptorPool()
    for package, messages in MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        if package == INFERENCE:
            file.dependency.append("google.rpc.proto")
        for name, fields in messages.items():
            describe(file.message_type.add(name=name), f".{package}.{name}", fields)
        pool.Add(file)
    return {
        f"{package}.{name}": message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for package, messages in MESSAGES.items()
        for name in messages
    } | {EMPTY[1:]: empty_pb2.Empty}


def describe(message, full_name, fields):
    for name, (number, kind) in fields.items():
        field = message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
        if kind == "map":  # of strings to bytes
            field.label, field.type_name = Field.LABEL_REPEATED, f"{full_name}.InputEntry"
            entry = message.nested_type.add(name="InputEntry", options={"map_entry": True})
            describe(entry, "", {"key": (1, "string"), "value": (2, "bytes")})
        elif kind.startswith("."):
            field.type_name = kind
        else:
            field.type = Field.Type.Value(f"TYPE_{kind.upper()}")


def client(channel, service):
    """`client(…).Method(field=…)`: what grpcio's generated stubs do, with messages of the table; streams take lists."""
    types, package = message_types(), service.rpartition(".")[0]

    def caller(method, takes, gives, sides):
        request, response = (types[name[1:] if name.startswith(".") else f"{package}.{name}"] for name in (takes, gives))
        call = getattr(channel, sides)(
            f"/{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        if sides == "stream_stream":
            return lambda *each: list(call(iter([request(**fields) for fields in each]), timeout=30))
        if sides == "unary_stream":
            return lambda **fields: list(call(request(**fields), timeout=30))
        return lambda **fields: call(request(**fields), timeout=30, wait_for_ready=True)

    return SimpleNamespace(**{method: caller(method, *of) for method, of in METHODS[service].items()})
