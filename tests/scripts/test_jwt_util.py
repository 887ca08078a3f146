import json
import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

TOOL = Path(__file__).parents[2] / "scripts" / "jwt_util.py"
SECRET = "a secret of thirty-two bytes, or more"


def tool(*args, secret=None):
    environ = {name: value for name, value in os.environ.items() if name != "JWT_SECRET"}
    environ |= {"JWT_SECRET": secret} if secret else {}
    return subprocess.run([sys.executable, TOOL, *args], capture_output=True, text=True, env=environ, timeout=60)


def test_what_is_encoded_can_be_decoded():
    token = tool("--secret", SECRET, "encode", '{"team_id": "t"}').stdout.strip()

    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {"team_id": "t"}
    assert json.loads(tool("decode", token, secret=SECRET).stdout) == {"team_id": "t"}


def test_the_flag_wins_over_the_environment():
    token = tool("encode", "{}", "--secret", SECRET, secret="another").stdout.strip()

    jwt.decode(token, SECRET, algorithms=["HS256"])


@pytest.mark.parametrize(
    ("args", "secret"),
    [
        pytest.param(("encode", "{"), SECRET, id="claims that are no JSON"),
        pytest.param(("encode", "[1]"), SECRET, id="claims that are no object"),
        pytest.param(("sing", "{}"), SECRET, id="another mode"),
        pytest.param(("decode", "abc"), SECRET, id="no token"),
        pytest.param(("encode", "{}"), None, id="no secret"),
    ],
)
def test_bad_input_is_told_in_a_line(args, secret):
    done = tool(*args, secret=secret)

    assert done.returncode != 0
    assert done.stderr and "Traceback" not in done.stderr
