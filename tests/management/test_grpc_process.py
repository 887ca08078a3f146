"""The services over real gRPC, called as a client compiled from TorchServe's own .proto files calls them."""

import json
import socket
import subprocess
import sys

import grpc
import pytest

from ..conftest import free_ports
from ..frontend.originals import INFERENCE, MANAGEMENT, client

STREAM = """
from ts.handler_utils.utils import send_intermediate_predict_response


def handle(rows, context):
    if rows is None:
        return None
    send_intermediate_predict_response(["a"], context.request_ids, "Intermediate", 200, context)
    return ["b"]
"""

DOUBLE = """
def handle(rows, context):
    return None if rows is None else [{"outputs": [doubled(row["body"]["inputs"][0])]} for row in rows]


def doubled(tensor):
    return tensor | {"name": "doubled", "data": [2 * value for value in tensor["data"]]}
"""

# in a process of its own: its messages and the KServe SDK's have the same names, and one process can hold one of them
TRITON = """
import sys

import numpy
import tritonclient.grpc as triton

tensor = triton.InferInput("x", [2], "FP32")
tensor.set_data_from_numpy(numpy.array([1.5, 2], dtype=numpy.float32))
with triton.InferenceServerClient(sys.argv[1]) as client:
    print(client.is_server_live(), client.is_server_ready(), client.is_model_ready("double"), end=" ")
    print(client.get_model_metadata("double").versions, end=" ")
    answer = client.infer("double", [tensor], request_id="7", client_timeout=30)
    print(answer.get_response().id, answer.as_numpy("doubled").tolist())
"""


@pytest.fixture
def server(live_server):
    inference, management = free_ports(2)
    started = live_server(grpc_inference_port=inference, grpc_management_port=management)
    with (
        grpc.insecure_channel(f"127.0.0.1:{inference}") as calls,
        grpc.insecure_channel(f"127.0.0.1:{management}") as control,
    ):
        started.grpc_inference = f"127.0.0.1:{inference}"
        started.inference = client(calls, f"{INFERENCE}.InferenceAPIsService")
        started.management = client(control, f"{MANAGEMENT}.ManagementAPIsService")
        yield started


def test_a_models_whole_life(server):
    server.archive("echo")
    manage, ask = server.management, server.inference

    told = manage.RegisterModel(url="echo", initial_workers=1, synchronous=True, startup_timeout=77, batch_size=2).msg
    assert told == 'Model "echo" Version: 1.0 registered with 1 initial workers'
    assert json.loads(manage.ListModels().msg) == {"models": [{"modelName": "echo", "modelUrl": "echo"}]}
    (described,) = json.loads(manage.DescribeModel(model_name="echo", model_version="1.0").msg)
    assert (described["startupTimeout"], described["batchSize"]) == (77, 2)
    assert ask.Ping().health == '{\n  "status": "Healthy"\n}'
    assert ask.Predictions(model_name="echo", input={"body": b"hi"}).prediction == b"hi"
    assert (
        manage.ScaleWorker(model_name="echo", min_worker=2, synchronous=True).msg == "Workers scaled to 2 for model: echo"
    )
    default = manage.SetDefault(model_name="echo", model_version="1.0").msg
    assert default == 'Default version successfully updated for model "echo" to "1.0"'
    assert manage.UnregisterModel(model_name="echo").msg == 'Model "echo" unregistered'


def test_answers_stream_one_way_and_both(server):
    server.archive("stream", STREAM)
    server.management.RegisterModel(url="stream", initial_workers=1, synchronous=True)
    request = {"model_name": "stream", "input": {"data": b"x"}}

    one = server.inference.StreamPredictions(**request)
    both = server.inference.StreamPredictions2(request | {"sequence_id": "s"}, {"model_name": "no", "sequence_id": "t"})

    assert [answer.prediction for answer in one] == [b"a", b"b"]
    assert [(answer.prediction, answer.sequence_id, answer.status.code) for answer in both] == [
        (b"a", "s", 0), (b"b", "s", 0), (b"", "t", grpc.StatusCode.NOT_FOUND.value[0]),
    ]  # fmt: skip


def test_a_stream_without_a_sequence_begins_one_at_every_request(server):
    code = """
def handle(rows, context):
    return rows and [f"{context.get_sequence_id(0)} {context.get_request_header(0, 'ts_request_sequence_start')}"]
"""
    server.archive("sequence", code, yaml="sequenceBatching: true")
    server.management.RegisterModel(url="sequence", initial_workers=1, synchronous=True)
    request = {"model_name": "sequence", "input": {"data": b"x"}}

    given, made = server.inference.StreamPredictions2(request | {"sequence_id": "s"}, request)

    assert (given.sequence_id, given.prediction) == ("s", b"s None")
    assert made.sequence_id.startswith("ts-seq-")
    assert made.prediction == f"{made.sequence_id} true".encode()


def test_tritons_client_infers(server):
    server.archive("double", DOUBLE)
    server.management.RegisterModel(url="double", initial_workers=1, synchronous=True)

    told = subprocess.run([sys.executable, "-c", TRITON, server.grpc_inference], capture_output=True, text=True, timeout=60)

    assert told.stdout == "True True True ['1.0'] 7 [3.0, 4.0]\n", told.stderr


def test_refusals_have_torchserves_two_lines(server):
    register, describe, predict = (
        server.management.RegisterModel,
        server.management.DescribeModel,
        server.inference.Predictions,
    )
    bad, unknown = ("INVALID_ARGUMENT", "http.BadRequest"), ("NOT_FOUND", "archive.model.ModelNotFound")
    for call, fields, message, (code, exception) in [
        (register, {}, "Parameter url is required.", bad),
        (register, {"url": "no.mar"}, "Model not found at: no.mar", unknown),
        (describe, {"model_name": "no"}, "Model not found: no", unknown),
        (predict, {"model_name": "no"}, "Model not found: no", unknown),
        (predict, {}, "Parameter model_name is required.", bad),
    ]:
        with pytest.raises(grpc.RpcError) as refusal:
            call(**fields)

        assert refusal.value.code().name == code
        assert refusal.value.details() == f"{message}\norg.pytorch.serve.{exception}Exception"


def test_a_grpc_port_that_is_taken_leaves_the_rest_served_and_is_told(live_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = live_server(grpc_inference_port=taken.getsockname()[1], grpc_management_port=free_ports(1)[0])

        assert server.healthy()
        assert "gRPC is not served" in (server.folder / "logs" / "ts_log.log").read_text()
