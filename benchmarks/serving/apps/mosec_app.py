"""BENCH='["echo", 1, 0, 1, 8000, "json"]' python mosec_app.py: Mosec, with the json or the orjson codec."""

import json
import os
import sys

import orjson
from mosec import Server, SSEWorker, Worker

app, batch, delay, workers, port, codec = json.loads(os.environ["BENCH"])  # spawned children read it again


class Orjson:
    def serialize(self, data):
        return orjson.dumps(data)

    def deserialize(self, data):
        return orjson.loads(data)


class Echo(Worker):
    def forward(self, data):
        return data


class Mlp(Worker):
    def __init__(self):
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.torch = torch
        self.model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).eval()

    def forward(self, data):
        rows = data if batch > 1 else [data]
        with self.torch.inference_mode():
            found = self.model(self.torch.tensor([row["x"] for row in rows])).tolist()
        return found if batch > 1 else found[0]


class Stream(SSEWorker):
    def forward(self, data):
        for number in range(64):
            self.send_stream_event(f"token{number} ")
        return data


class OrjsonEcho(Orjson, Echo):
    pass


class OrjsonMlp(Orjson, Mlp):
    pass


WORKERS = {
    ("echo", "json"): Echo,
    ("echo", "orjson"): OrjsonEcho,
    ("mlp", "json"): Mlp,
    ("mlp", "orjson"): OrjsonMlp,
    ("stream", "json"): Stream,
}

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(port), "--timeout", "30000"]
    server = Server()
    server.append_worker(
        WORKERS[app, codec], num=workers, max_batch_size=batch, max_wait_time=max(delay, 1) if batch > 1 else 0
    )
    server.run()
