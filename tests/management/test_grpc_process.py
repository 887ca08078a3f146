import socket

import grpc

from flambeau.frontend.grpc_api.messages import message, stub

from ..conftest import free_ports

INFERENCE, MANAGEMENT = "org.pytorch.serve.grpc.inference", "org.pytorch.serve.grpc.management"


def test_models_are_registered_asked_and_listed_over_grpc(live_server):
    inference, management = free_ports(2)
    server = live_server(grpc_inference_port=inference, grpc_management_port=management)
    server.archive("echo")

    with grpc.insecure_channel(f"127.0.0.1:{management}") as channel:
        register = stub(channel, f"{MANAGEMENT}.ManagementAPIsService", "RegisterModel")
        wanted = message(f"{MANAGEMENT}.RegisterModelRequest")(
            url="echo", model_name="echo", initial_workers=1, synchronous=True
        )
        told = register(wanted, timeout=30, wait_for_ready=True).msg
        listed = stub(channel, f"{MANAGEMENT}.ManagementAPIsService", "ListModels")(
            message(f"{MANAGEMENT}.ListModelsRequest")()
        )
    with grpc.insecure_channel(f"127.0.0.1:{inference}") as channel:
        predict = stub(channel, f"{INFERENCE}.InferenceAPIsService", "Predictions")
        answer = predict(message(f"{INFERENCE}.PredictionsRequest")(model_name="echo", input={"body": b"hi"}), timeout=30)

    assert "registered with 1 initial workers" in told
    assert '"modelName": "echo"' in listed.msg
    assert b"hi" in answer.prediction


def test_a_grpc_port_that_is_taken_leaves_the_rest_served_and_is_told(live_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = live_server(grpc_inference_port=taken.getsockname()[1], grpc_management_port=free_ports(1)[0])

        assert server.healthy()
        assert "gRPC is not served" in (server.folder / "logs" / "ts_log.log").read_text()
