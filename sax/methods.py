"""saxutil's commands that ask models: lm.*, vm.*, custom."""

import base64
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..management.cell.errors import SaxError
from . import tables
from .calls import Machines, call, stream
from .commands import Call, Command
from .flags import Flag, extra_inputs

EXTRA = Flag("extra", "", "Extra inputs, such as temperature:0.5,per_example_top_k:20")
PROXY = Flag("proxy", "", "Ask the server at this address; nobody is looked up.")


def _ask(made: Call, path: str, **payload: Any) -> Any:
    model = made.args[0]
    return call(_machines(made), path, {"model": model, "extra_inputs": _extra(made), **payload}, made.timeout)


def _machines(made: Call) -> Machines:
    return Machines(made.args[0], made.root, made.flags.get("proxy") or None)


def _extra(made: Call) -> dict[str, Any]:
    try:
        return extra_inputs(made.flags["extra"])
    except ValueError as error:
        raise SaxError("InvalidArgument", str(error)) from None


def generate(made: Call) -> None:
    flags, query = made.flags, made.args[1]
    query = sys.stdin.read() if query == "-" else query
    if flags["n"] < 0:
        raise SaxError("InvalidArgument", f"-n {flags['n']}: how many, or 0 for all")
    if flags["stream"]:
        if flags["terse"] or flags["n"]:
            raise SaxError("InvalidArgument", "-stream goes with neither -terse nor -n")
        _stream(made, query)
        return
    found = _ask(made, "/generate", query=query)
    found = sorted(found, key=lambda pair: -pair[1])[: flags["n"] or None]
    if flags["terse"]:
        print("\n".join(text for text, _ in found))
    else:
        sys.stdout.write(tables.table(["Generate", "Score"], [[text, tables.number(score)] for text, score in found]))


def _stream(made: Call, query: str) -> None:
    texts: list[str] = []
    totals: list[float] = []
    last: list[float] = []
    for items in _streamed(made, query):
        texts += [""] * (len(items) - len(texts))
        totals += [0.0] * (len(items) - len(totals))
        last += [0.0] * (len(items) - len(last))
        for at, item in enumerate(items):
            texts[at] = texts[at][: item["prefix_len"]] + item["text"]
            totals[at] += sum(item["scores"])
            last[at] = sum(item["scores"])
        if sys.stdout.isatty() and (clear := shutil.which("clear")):
            subprocess.run([clear], check=False)
            print("".join(f"{text}\n\n" for text in texts), end="", flush=True)
    if not sys.stdout.isatty():
        print("".join(f"{text}\n\n" for text in texts), end="")
    print("Scores: " + ", ".join(tables.number(total) for total in totals))


def _streamed(made: Call, query: str) -> Iterator[list[dict[str, Any]]]:
    payload = {"model": made.args[0], "query": query, "stream": True, "extra_inputs": _extra(made)}
    for event in stream(_machines(made), "/generate", payload, made.timeout):
        yield event["items"]


def score(made: Call) -> None:
    prefix, suffixes = made.args[1], made.args[2:]
    scores = _ask(made, "/score", prefix=prefix, suffix=suffixes)
    rows = [[suffix, tables.number(value)] for suffix, value in zip(suffixes, scores, strict=True)]
    sys.stdout.write(tables.table(["Suffix", "Score"], rows))


def embed(made: Call) -> None:
    vector = _ask(made, "/embed", query=made.args[1])
    sys.stdout.write(tables.table(["Text", "Embedding"], [[made.args[1], ", ".join(tables.number(x) for x in vector)]]))


def classify(made: Call) -> None:
    found = _run(made, "vm.classify", _bytes(made.args[1]))
    sys.stdout.write(tables.table(["Text", "Score"], [[label, tables.number(score)] for label, score in found]))


def embed_image(made: Call) -> None:
    name = "stdin" if made.args[1] == "-" else made.args[1]
    vector = _run(made, "vm.embed", _bytes(made.args[1]))
    sys.stdout.write(tables.table(["Image", "Embedding"], [[name, ", ".join(tables.number(x) for x in vector)]]))


def draw(made: Call) -> None:
    _, text, target = made.args
    found = _run(made, "vm.generate", text.encode())
    if target == "-":
        for image, _ in found:
            sys.stdout.buffer.write(base64.b64decode(image))
        return
    rows = []
    for at, (image, value) in enumerate(found, 1):
        path = Path(target) / f"{at:04d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(image))
        rows.append([str(path), tables.number(value)])
    sys.stdout.write(tables.table(["Image", "Score"], rows))


def custom(made: Call) -> None:
    """Bytes to bytes: the answer goes to standard output as it is."""
    answer = _run(made, "custom", _bytes(made.args[1]))
    sys.stdout.buffer.write(base64.b64decode(answer["data"]))


def _run(made: Call, method: str, data: bytes) -> Any:
    return _ask(made, "/run", method=method, data=base64.b64encode(data).decode())


def _bytes(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SaxError("InvalidArgument", f"{name}: {error.strerror}") from None


GENERATE_FLAGS = (
    EXTRA, PROXY, Flag("stream", False, "Print the text as it is made."),
    Flag("terse", False, "Print texts alone, best first."), Flag("n", 0, "The best so many; 0: all."),
)  # fmt: skip
METHOD_COMMANDS = (
    Command("custom", "send bytes to a model.", "custom <model ID> <file|->", custom, 2, 2, "Provide model ID and file",
            (EXTRA, PROXY)),
    Command("lm.embed", "embed a text by a language model.", "lm.embed <model ID> <text>", embed, 2, 2,
            "Provide model ID and text", (EXTRA, PROXY)),
    Command("lm.generate", "generate text by a language model.", "lm.generate <model ID> <text|->", generate, 2, 2,
            "Provide model ID and query", GENERATE_FLAGS),
    Command("lm.score", "score suffixes by a language model.", "lm.score <model ID> <prefix> <suffix>…", score, 3, 10**6,
            "Provide model ID, prefix and suffixes", (EXTRA, PROXY)),
    Command("vm.classify", "classify an image by a vision model.", "vm.classify <model ID> <image file|->", classify, 2, 2,
            "Provide model ID and image file", (EXTRA, PROXY)),
    Command("vm.embed", "embed an image by a vision model.", "vm.embed <model ID> <image file|->", embed_image, 2, 2,
            "Provide model ID and image file", (EXTRA, PROXY)),
    Command("vm.generate", "draw images by a vision model.", "vm.generate <model ID> <text> <folder|->", draw, 3, 3,
            "Provide model ID, text and folder", (EXTRA, PROXY)),
)  # fmt: skip
