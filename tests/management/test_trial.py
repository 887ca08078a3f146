import json

import pytest
from click.testing import CliRunner

from flambeau.archiver.manifest import Manifest
from flambeau.cli import main

SHOUT = """
def handle(data, context):
    if data is None:
        return None
    print("asked", flush=True)
    return [row["body"]["text"].upper() for row in data]
"""
PARTS = (
    "def handle(data, context):\n    return None if data is None else (['one '] if n == 0 else ['two'] for n in range(2))\n"
)
RAISES = "def handle(data, context):\n    if data:\n        raise ValueError('no such row')\n"
DIES = "import os\ndef handle(data, context):\n    if data:\n        os.kill(os.getpid(), 11)\n"
NO_WEIGHTS = "print('reading weights')\nraise FileNotFoundError('weights.pt')\n"


@pytest.fixture
def tried(tmp_path):
    def run(handler, *arguments):
        folder = tmp_path / "m"
        (folder / "MAR-INF").mkdir(parents=True)
        (folder / "handler.py").write_text(handler)
        (folder / "MAR-INF" / "MANIFEST.json").write_text(Manifest(model_name="m", handler="handler.py").dumps())
        return CliRunner().invoke(main, ["try", str(folder), *arguments])

    return run


def test_an_archive_is_asked_without_a_server(tried):
    done = tried(SHOUT, '{"text": "hello"}')

    assert (done.exit_code, done.stdout) == (0, "HELLO\n")
    assert "asked" in done.stderr


def test_bodies_are_wrapped_as_config_properties_says(tried):
    echo = "def handle(data, context):\n    return data and [row['body'] for row in data]\n"

    done = tried(echo, '{"instances": [{"body": {"n": 1}}]}', "--service-envelope", "kserve")

    assert (done.exit_code, json.loads(done.stdout)) == (0, {"predictions": [{"n": 1}]})


def test_streamed_parts_are_shown_as_they_come(tried):
    assert tried(PARTS, "x").stdout == "one two\n"


def test_without_a_body_it_is_only_loaded(tried):
    done = tried(SHOUT)

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("loaded in ")


@pytest.mark.parametrize(("handler", "shown", "cause"), [
    pytest.param(NO_WEIGHTS, "reading weights", "Error: import: FileNotFoundError: weights.pt at handler.py:2", id="loading"),
    pytest.param(RAISES, "ValueError: no such row", "Error: Prediction failed", id="an exception"),
    pytest.param(DIES, "loaded in", "Error: the model's process has ended: killed by SIGSEGV", id="a signal"),
])  # fmt: skip
def test_what_goes_wrong_is_shown_with_its_traceback(tried, handler, shown, cause):
    done = tried(handler, "x")

    assert done.exit_code == 1
    assert shown in done.stderr
    assert done.stderr.splitlines()[-1] == cause


def test_what_is_no_archive_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["try", str(tmp_path / "nothing.mar")])

    assert (done.exit_code, done.stderr) == (1, f"Error: {tmp_path}/nothing.mar: no such file\n")
