import asyncio

import pytest

from flambeau.frontend.errors import BadRequest
from flambeau.frontend.grpc_api.inference import form_data
from flambeau.frontend.grpc_api.management import ask
from flambeau.frontend.grpc_api.messages import message, pool
from flambeau.frontend.grpc_api.open_inference import request_json

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

    with pytest.raises(BadRequest, match="in the middle"):
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
