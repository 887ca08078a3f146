"""vm.classify, vm.embed and vm.generate on a servable that was trained here: the digits."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from sklearn.datasets import load_digits

import flambeau
from flambeau import sax

from .cluster import until
from .test_walkthroughs import free_port

TRAIN = Path(flambeau.__file__).parent / "examples" / "digits" / "vision" / "train.py"
DIGITS = "/sax/test/digits"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(file, "PNG")
    return file.getvalue()


def test_a_network_of_our_own_classifies_embeds_and_draws(live_server, shell, monkeypatch):
    port, root = free_port(), str(shell.folder / "root")
    server = live_server(cell="/sax/test", sax_root=root, sax_address=f"http://127.0.0.1:{port}")
    subprocess.run([sys.executable, str(TRAIN), str(server.store)], check=True, timeout=100)
    monkeypatch.setenv("SAX_ROOT", root)
    until(lambda: requests.get(f"http://127.0.0.1:{port}/listall", params={"sax_cell": "/sax/test"}).ok)

    shell.run("saxutil", "publish", "-wait", DIGITS, "examples.Digits", "None", "1", "SAMPLES=3")

    images, labels = load_digits().images[-40:], load_digits().target[-40:]
    model = sax.Model(DIGITS).VM()
    found = [model.Classify(png(image)) for image in images]
    assert np.mean([int(best[0][0]) == label for best, label in zip(found, labels, strict=True)]) > 0.9
    assert all(len(best) == 10 and best == sorted(best, key=lambda pair: -pair[1]) for best in found)
    assert len(model.Embed(png(images[0]))) == 32
    drawn = model.Generate("draw a 7")
    assert len(drawn) == 3 and model.Classify(drawn[0][0])[0][0] == "7"

    (shell.folder / "seven.png").write_bytes(drawn[0][0])
    assert "| 7    |" in shell.run("saxutil", "vm.classify", DIGITS, "seven.png").replace("|    7 |", "| 7    |")
    assert "seven.png" in shell.run("saxutil", "vm.embed", DIGITS, "seven.png")
    assert "0001.PNG" in shell.run("saxutil", "vm.generate", DIGITS, "a 3", str(shell.folder / "out"))
    assert (shell.folder / "out" / "0003.PNG").read_bytes().startswith(b"\x89PNG")
    refusal = requests.post(
        f"http://127.0.0.1:{port}/run",
        json={"model": DIGITS, "method": "vm.classify", "data": base64.b64encode(b"no image").decode()},
    )
    assert refusal.status_code == 400 and refusal.json()["detail"] == "the body is no image"
    assert "does not support lm.generate" in shell.run("saxutil", "lm.generate", DIGITS, "x", status=1)
