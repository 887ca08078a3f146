"""Train the digits network on scikit-learn's 1,797 handwritten digits: python train.py OUTPUT_FOLDER

Writes digits.pt (state dict) and test/<label>_<number>.png (the held-out fifth). Takes seconds on one core.
"""

import sys
from pathlib import Path

import torch
from model import DigitsNet
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPOCHS = 25
BATCH = 64


def main(folder: Path) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # the data has 17 grey levels; a PNG has 256
    train_x, test_x, train_y, test_y = train_test_split(pixels, digits.target, test_size=0.2, random_state=0)

    network = train(torch.tensor(train_x).unsqueeze(1) / 255, torch.tensor(train_y))

    (folder / "test").mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "digits.pt")
    for number, (image, label) in enumerate(zip(test_x, test_y, strict=True)):
        Image.fromarray(image).save(folder / "test" / f"{label}_{number:03}.png")
    with torch.inference_mode():
        right = (network(torch.tensor(test_x).unsqueeze(1) / 255).argmax(1) == torch.tensor(test_y)).float().mean()
    print(f"trained on {len(train_y)} images; accuracy on {len(test_y)} held-out images: {right:.1%}")


def train(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    network = DigitsNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
