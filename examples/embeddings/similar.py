"""How near sentences are to each other: python similar.py URL_OF_EMBEDDINGS [MODEL]"""

import json
import sys
import urllib.request

PAIRS = [("He was eating food.", "He was eating bread."), ("I forgot my password.", "I can not log in."),
         ("He was eating food.", "I forgot my password.")]  # fmt: skip


def main(url: str, model: str = "minilm") -> None:
    texts = [text for pair in PAIRS for text in pair]
    body = json.dumps({"model": model, "input": texts}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        vectors = [item["embedding"] for item in json.load(answer)["data"]]
    for number, (one, other) in enumerate(PAIRS):
        near = sum(a * b for a, b in zip(vectors[2 * number], vectors[2 * number + 1], strict=True))
        print(f"{near:5.2f}  {one}  |  {other}")


if __name__ == "__main__":
    main(*sys.argv[1:])
