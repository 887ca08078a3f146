"""Handler of Flambeau and TorchServe: 784 numbers through a 784-256-10 network."""

import torch


class Mlp:
    def initialize(self, context):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).eval()

    def handle(self, data, context):
        with torch.inference_mode():
            return self.model(torch.tensor([row["body"]["x"] for row in data])).tolist()
