"""Post every image of a folder and count the right answers: python accuracy.py URL FOLDER (files named <label>_….png)."""

import http.client
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit


def main(url: str, folder: Path) -> None:
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.netloc, timeout=30)
    images = sorted(folder.glob("*.png"))
    right = 0
    for image in images:
        connection.request("POST", target.path, image.read_bytes(), {"Content-Type": "image/png"})
        probabilities = json.loads(connection.getresponse().read())
        right += max(probabilities, key=probabilities.__getitem__) == image.name[0]
    print(f"{right} of {len(images)} right: accuracy {right / len(images):.1%}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
