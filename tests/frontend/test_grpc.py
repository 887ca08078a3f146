import asyncio
import json

import grpc
import msgspec
import pytest
from google.protobuf.empty_pb2 import Empty

from flambeau.frontend.errors import BadRequest, ModelError
from flambeau.frontend.gate import Gate, InferenceKey
from flambeau.frontend.grpc_api.access import KeyCheck
from flambeau.frontend.grpc_api.management import ask
from flambeau.frontend.grpc_api.messages import message, pool, stub
from flambeau.frontend.grpc_api.open_inference import OpenInference, request_json
from flambeau.frontend.grpc_api.server import FOR_EVER, inference_services, start
from flambeau.frontend.multipart import form_data
from flambeau.frontend.options import ConnectionAge

from .conftest import write_keys
from .test_server import free_port

INFERENCE = "org.pytorch.serve.grpc.inference"


@pytest.mark.parametrize("package", ["inference", "org.pytorch.serve.grpc.openinference"])
def test_both_names_of_the_open_inference_protocol_have_the_same_messages(package):
    request = message(f"{package}.ModelInferRequest")(
        model_name="m", raw_input_contents=[b"\x01\x00\x00\x00\x02\x00\x00\x00"]
    )
    request.inputs.add(name="x", datatype="INT32", shape=[2])

    assert request_json(request)["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [2], "data": [1, 2]}]


def test_strings_and_half_floats_come_raw():
    request = message("inference.ModelInferRequest")(
        raw_input_contents=[b"\x02\x00\x00\x00hi\x00\x00\x00\x00", b"\x80\x3f"]
    )
    request.inputs.add(name="s", datatype="BYTES", shape=[2])
    request.inputs.add(name="b", datatype="BF16", shape=[1])

    assert [tensor["data"] for tensor in request_json(request)["inputs"]] == [["hi", ""], [1.0]]


def test_a_torn_tensor_is_refused():
    request = message("inference.ModelInferRequest")(raw_input_contents=[b"\x09\x00\x00\x00hi"])
    request.inputs.add(name="s", datatype="BYTES", shape=[1])

    with pytest.raises(BadRequest, match="longer than the data"):
        request_json(request)


def test_a_row_becomes_a_form_whose_parts_are_its_values():
    body, content_type = form_data({"data": b"\x00\r\n--x", 'odd"name': b"2"})

    boundary = content_type.partition(b"boundary=")[2]
    parts = body.split(b"--" + boundary)
    assert len(parts) == 4
    assert parts[1].endswith(b"\r\n\r\n\x00\r\n--x\r\n")
    assert b'name="odd%22name"' in parts[2]


def test_every_service_of_the_contracts_is_known():
    for name in (
        f"{INFERENCE}.InferenceAPIsService",
        "org.pytorch.serve.grpc.management.ManagementAPIsService",
        "inference.GRPCInferenceService",
    ):
        assert pool().FindServiceByName(name).methods


def test_a_management_call_is_the_rest_call_that_it_stands_for(tmp_path):
    async def scenario():
        asked = []

        async def answer(reader, writer):
            asked.append(await reader.readline())
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        async with await asyncio.start_unix_server(answer, tmp_path / "c"):
            status = await ask(tmp_path / "c", "POST", "/models?url=m.mar")
        return asked, status

    asked, status = asyncio.run(scenario())

    assert asked == [b"POST /models?url=m.mar HTTP/1.1\r\n"]
    assert status == (409, "{}")


def test_an_answer_is_raw_where_the_request_was_or_the_type_has_no_other_form():
    typed, raw = message("inference.ModelInferRequest")(), message("inference.ModelInferRequest")(raw_input_contents=[b"x"])
    services = OpenInference(None, "inference", "")

    def answer(request, datatype):
        output = {"name": "y", "datatype": datatype, "shape": [2], "data": [1.0, 2.0]}
        return services._response(request, "1.0", json.dumps({"outputs": [output]}).encode())

    assert answer(typed, "FP32").outputs[0].contents.fp32_contents == [1.0, 2.0]
    assert answer(raw, "FP32").raw_output_contents == [b"\x00\x00\x80\x3f\x00\x00\x00\x40"]
    assert answer(typed, "FP16").raw_output_contents == [b"\x00\x3c\x00\x40"]
    with pytest.raises(ModelError, match="FP33"):
        answer(typed, "FP33")


def call(run, scenario, needs_key=False, age=FOR_EVER):
    """Runs `scenario(ask)` against the gRPC server over the fake worker of a data plane."""

    async def with_server(plane):
        worker = await plane.worker()
        worker.answer = lambda body: json.dumps(
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}
        ).encode()
        plane.publish(worker)
        options = plane.app.options
        write_keys(plane.runtime, InferenceKey("right"))
        checks = (
            [KeyCheck(Gate(plane.runtime, msgspec.structs.replace(options, token_authorization=True)))] if needs_key else []
        )
        address = f"127.0.0.1:{free_port()}"
        server = await start(address, inference_services(plane.app.models, options), options, age, checks)
        async with grpc.aio.insecure_channel(address) as channel:
            await scenario(channel)
        await server.stop(1)

    run(with_server)


def test_a_prediction_and_an_inference_reach_the_worker_and_come_back(run):
    async def scenario(channel):
        answer = await stub(channel, f"{INFERENCE}.InferenceAPIsService", "Predictions")(
            message(f"{INFERENCE}.PredictionsRequest")(model_name="m", input={"data": b"x"})
        )
        assert b"FP32" in answer.prediction
        request = message("inference.ModelInferRequest")(model_name="m", id="7")
        request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
        answer = await stub(channel, "inference.GRPCInferenceService", "ModelInfer")(request)
        assert (answer.id, answer.outputs[0].name, list(answer.outputs[0].contents.fp32_contents)) == ("7", "y", [0.5])

    call(run, scenario)


def test_an_unknown_model_is_not_found_in_the_rest_api_s_words(run):
    async def scenario(channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel, f"{INFERENCE}.InferenceAPIsService", "Predictions")(
                message(f"{INFERENCE}.PredictionsRequest")(model_name="none", input={"data": b"x"})
            )
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert "Model not found: none" in caught.value.details()

    call(run, scenario)


def test_with_keys_on_a_call_needs_one_and_a_probe_none(run):
    async def scenario(channel):
        predict = stub(channel, f"{INFERENCE}.InferenceAPIsService", "Predictions")
        request = message(f"{INFERENCE}.PredictionsRequest")(model_name="m", input={"data": b"x"})
        for metadata in (None, (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await predict(request, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert (await predict(request, metadata=(("authorization", "Bearer right"),))).prediction
        ping = stub(channel, f"{INFERENCE}.InferenceAPIsService", "Ping")
        assert "Healthy" in (await ping(Empty())).health

    call(run, scenario, needs_key=True)


def test_a_connection_ends_at_its_age(run):
    async def scenario(channel):
        ping = stub(channel, f"{INFERENCE}.InferenceAPIsService", "Ping")
        assert (await ping(Empty())).health

        async with asyncio.timeout(5):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

        assert (await ping(Empty())).health  # on a new one

    call(run, scenario, age=ConnectionAge(most=100, grace=100))
