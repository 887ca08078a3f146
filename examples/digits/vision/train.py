"""A servable for vm.classify, vm.embed and vm.generate: python train.py MODEL_STORE

Trains the digits network and a painter on scikit-learn's digits (seconds on one core) and writes the archive folder
MODEL_STORE/digits-vision, whose YAML names its path in a cell: examples.Digits.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from model import DigitsNet  # noqa: E402
from painter import STYLE, Painter  # noqa: E402

EPOCHS = 40
BATCH = 128
CLASSIFIER_EPOCHS = 15
YAML = """\
sax:
  path: examples.Digits
  aliases: [digits]
  methods: [vm.classify, vm.embed, vm.generate, custom]
  settings: {SAMPLES: 2}
  extra_inputs: {seed: null}
"""


def main(store: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    classifier, painter = train_classifier(images, labels), train_painter(images, labels)
    folder = store / "digits-vision"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "MAR-INF").mkdir(parents=True)
    torch.save(classifier.state_dict(), folder / "digits.pt")
    torch.save(painter.state_dict(), folder / "painter.pt")
    for source in (HERE.parent / "model.py", HERE / "painter.py", HERE / "handler.py"):
        shutil.copy(source, folder)
    (folder / "model-config.yaml").write_text(YAML)
    model = {
        "modelName": "digits-vision",
        "handler": "handler.py",
        "modelVersion": "1.0",
        "configFile": "model-config.yaml",
    }
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    print(f"{folder} is ready: publish it as examples.Digits or store.digits-vision")


def train_classifier(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    network = DigitsNet()
    fit(
        network,
        images,
        CLASSIFIER_EPOCHS,
        lambda rows: torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]),
    )
    return network


def train_painter(images: torch.Tensor, labels: torch.Tensor) -> Painter:
    """A conditional variational autoencoder; its encoder is thrown away."""
    painter, one_hot = Painter(), torch.nn.functional.one_hot(labels, 10).float()
    encoder = torch.nn.Sequential(torch.nn.Linear(64 + 10, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2 * STYLE))

    def loss(rows: torch.Tensor) -> torch.Tensor:
        mean, log_variance = encoder(torch.cat([images[rows].flatten(1), one_hot[rows]], 1)).chunk(2, 1)
        style = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        drawn = torch.nn.functional.binary_cross_entropy(painter(labels[rows], style), images[rows], reduction="sum")
        surprise = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (drawn + surprise) / len(rows)

    fit(torch.nn.ModuleList([painter, encoder]), images, EPOCHS, loss)
    return painter


def fit(network: torch.nn.Module, images: torch.Tensor, epochs: int, loss: object) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
    network.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
