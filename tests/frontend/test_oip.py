import asyncio
import json

import numpy as np
import pytest

from flambeau.frontend.tensors import array_bytes, array_from


def double(body: bytes) -> bytes:
    """What a handler of Open Inference requests does."""
    request = json.loads(body)
    outputs = [
        {**tensor, "name": "doubled", "data": [2 * value for value in tensor["data"]]} for tensor in request["inputs"]
    ]
    return json.dumps({"model_name": "m", "outputs": outputs}).encode()


def test_tritons_client_sends_and_gets_binary_tensors(run):
    import tritonclient.http as triton

    def client(port):
        with triton.InferenceServerClient(f"localhost:{port}") as server:
            assert server.is_server_live() and server.is_server_ready()
            assert server.is_model_ready("m") and server.is_model_ready("m", "1.0")
            assert server.get_server_metadata()["name"] == "torchserve"
            assert server.get_model_metadata("m")["versions"] == ["1.0"]
            array = np.array([[1.5, 2, 3]], dtype=np.float32)
            tensor = triton.InferInput("x", array.shape, "FP32")
            results = []
            for binary in (True, False):
                tensor.set_data_from_numpy(array, binary_data=binary)
                output = triton.InferRequestedOutput("doubled", binary_data=binary)
                results.append(server.infer("m", [tensor], outputs=[output]).as_numpy("doubled"))
            with pytest.raises(triton.InferenceServerException, match="Model not found: x"):
                server.infer("x", [tensor])
            return results

    async def scenario(plane):
        worker = await plane.worker()
        worker.answer = double
        plane.publish(worker)

        binary, plain = await asyncio.to_thread(client, plane.port)

        assert binary.tolist() == plain.tolist() == [[3, 4, 6]]

    run(scenario)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT16", [-2, 3]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [1.5, -2.0]),
        ("BF16", [1.5, -2.0]),
        ("FP64", [0.1, 1e300]),
        ("BYTES", ["", "héllo"]),
    ],
)
def test_values_survive_the_way_to_bytes_and_back(datatype, values):
    assert array_from(datatype, array_bytes(datatype, values)) == values


@pytest.mark.parametrize(
    ("length", "body"),
    [
        pytest.param("9999", b"{}", id="a length beyond the body"),
        pytest.param("x", b"{}", id="a length that is no number"),
        pytest.param("2", b"[]", id="no object"),
        pytest.param("2", b"{}rest", id="bytes of no input"),
        pytest.param(
            "72", b'{"inputs": [{"datatype": "FP32", "parameters": {"binary_data_size": 9}}]}', id="data that is not there"
        ),
        pytest.param(
            "72", b'{"inputs": [{"datatype": "NONE", "parameters": {"binary_data_size": 1}}]}x', id="an unknown type"
        ),
        pytest.param(
            "72", b'{"inputs": [{"datatype": "FP32", "parameters": {"binary_data_size": 3}}]}abc', id="three quarters"
        ),
        pytest.param("100000", b"[" * 100000, id="deep JSON"),
    ],
)
def test_binary_requests_that_are_none_are_refused(run, length, body):
    length = str(body.index(b"]}") + 2) if length == "to the brackets" else length

    async def scenario(plane):
        plane.publish(await plane.worker())
        client = await plane.client()

        answer = await client.ask("/v2/models/m/infer", body, headers={"Inference-Header-Content-Length": length})

        assert answer.status == 400
        assert json.loads(answer.body)["error"]

    run(scenario)


@pytest.mark.parametrize("table", [{"healthy": False}, {"starting": True}], ids=str)
def test_health_is_the_tables(run, table):
    async def scenario(plane):
        plane.publish(**table)
        client = await plane.client()
        assert (await client.ask("/v2/health/live", method="GET")).body == b'{"live":true}'

        answer = await client.ask("/v2/health/ready", method="GET")

        assert (answer.status, answer.body) == (503, b'{"ready":false}')

    run(scenario)
