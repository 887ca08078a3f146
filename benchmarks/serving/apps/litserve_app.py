"""BENCH='["echo", 1, 0, 1, 8000]' python litserve_app.py: LitServe."""

import json
import os

import litserve

app, batch, delay, workers, port = json.loads(os.environ["BENCH"])  # spawned children read it again


class Echo(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request

    def batch(self, inputs):
        return list(inputs)

    def unbatch(self, output):
        return list(output)

    def predict(self, x):
        return x

    def encode_response(self, output):
        return output


class Mlp(Echo):
    def setup(self, device):
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.torch = torch
        self.model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).eval()

    def predict(self, x):
        rows = x if batch > 1 else [x]
        with self.torch.inference_mode():
            found = self.model(self.torch.tensor([row["x"] for row in rows])).tolist()
        return found if batch > 1 else found[0]

    def encode_response(self, output):
        return {"y": output}


class Stream(Echo):
    def predict(self, x):
        for number in range(64):
            yield f"token{number} "

    def encode_response(self, output):
        yield from output


if __name__ == "__main__":
    api = {"echo": Echo, "mlp": Mlp, "stream": Stream}[app]
    given = {"max_batch_size": batch, "batch_timeout": delay / 1000} if batch > 1 else {}
    server = litserve.LitServer(api(stream=app == "stream", **given), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
