"""The KServe SDK's own clients against real servers, set up as KServe does: REST v1 and v2, binary tensors, gRPC."""

import asyncio

import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from ..conftest import LiveServer, free_ports

DOUBLE = """
class Double:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        return [[2 * value for tensor in row for value in tensor["data"]] for row in rows]
"""
SUM = """
class Sum:
    def initialize(self, context):
        pass

    def handle(self, instances, context):
        explained = context.get_request_header(0, "explain") == "True"
        return [{"of": instance} if explained else sum(instance) for instance in instances]
"""
V1, V2 = RESTConfig(protocol="v1"), RESTConfig(protocol="v2")


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """A server with the model `m`, which has this handler."""
    servers = []

    def start(handler, **settings):
        folder = tmp_path_factory.mktemp("kserve") / "server"
        folder.mkdir()
        servers.append(server := LiveServer(folder, settings, ("--start", "--foreground", "--ncs")))
        server.archive("m", handler)
        server.start()
        server.client.register("m", initial_workers=1)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def v1(serve):
    return serve(SUM, service_envelope="kserve").client.inference


@pytest.fixture(scope="module")
def v2(serve):
    """Where REST is, and where gRPC."""
    inference, management = free_ports(2)
    server = serve(DOUBLE, service_envelope="kservev2", grpc_inference_port=inference, grpc_management_port=management)
    return server.client.inference, f"127.0.0.1:{inference}"


def request(binary):
    tensor = InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[1.5, 2, 3]], dtype=np.float32), binary_data=binary)
    return InferRequest(model_name="m", infer_inputs=[tensor], request_id="7", parameters={"binary_data_output": binary})


def test_v1_predicts_explains_and_tells_readiness(v1):
    async def ask(client):
        assert await client.is_model_ready(v1, "m")
        return (
            await client.infer(v1, {"instances": [[1, 2], [3, 4]]}, model_name="m"),
            await client.explain(v1, "m", {"instances": [[1, 2]]}),
        )

    predicted, explained = asyncio.run(ask(InferenceRESTClient(V1)))

    assert predicted == {"predictions": [3, 7]}
    assert explained == {"explanations": [{"of": [1, 2]}]}


def test_v1_is_told_of_an_unknown_model(v1):
    async def ask(client):
        await client.infer(v1, {"instances": []}, model_name="unknown")

    with pytest.raises(httpx.HTTPStatusError, match="404"):
        asyncio.run(ask(InferenceRESTClient(V1)))


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary tensors"])
def test_v2_infers_over_rest(v2, binary):
    rest, _ = v2
    headers = {}

    async def ask(client):
        assert await client.is_server_live(rest) and await client.is_server_ready(rest)
        assert await client.is_model_ready(rest, "m")
        assert not await client.is_model_ready(rest, "unknown")
        return await client.infer(rest, request(binary), model_name="m", response_headers=headers)

    answer = asyncio.run(ask(InferenceRESTClient(V2)))

    assert (answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()) == ("7", "m", [3, 4, 6])
    assert ("inference-header-content-length" in headers) == binary


@pytest.mark.parametrize("binary", [False, True], ids=["typed contents", "raw contents"])
def test_v2_infers_over_grpc(v2, binary):
    _, grpc = v2

    async def ask():
        async with InferenceGRPCClient(grpc) as client:
            assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("m")
            return await client.infer(request(binary))

    answer = asyncio.run(ask())

    assert (answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()) == ("7", "m", [3, 4, 6])
