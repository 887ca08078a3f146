import json
import os
import subprocess
import sys
import zipfile

import pytest

from flambeau.archiver.errors import InvalidModel
from flambeau.management.dependencies import install, refuse_options

HANDLER = "import tiny_dep\ndef handle(data, context):\n    return None if data is None else [tiny_dep.WORD] * len(data)\n"


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that holds one package, and pip told to look there alone."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_dep-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_dep-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_dep.py", "WORD = 'installed'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-dep\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "tiny_dep.py,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_package_is_installed_for_the_model_alone_and_the_servers_are_seen(tmp_path, wheels):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("tiny-dep==1.0\nmsgspec\n")  # the second is here already
    said = []

    python = install(requirements, tmp_path / "env", os.environ, lambda stream, line: said.append(line))

    seen = subprocess.run([python, "-c", "import tiny_dep, msgspec; print(tiny_dep.WORD)"], capture_output=True, text=True)
    assert seen.stdout == "installed\n", seen.stderr
    assert any("already satisfied: msgspec" in line for line in said)
    assert subprocess.run([sys.executable, "-c", "import tiny_dep"], capture_output=True).returncode == 1


def test_what_can_not_be_installed_is_an_invalid_model(tmp_path, wheels):
    (tmp_path / "requirements.txt").write_text("tiny-dep==9\n")

    with pytest.raises(InvalidModel, match="Custom pip package installation failed: ERROR: No matching distribution"):
        install(tmp_path / "requirements.txt", tmp_path / "env", os.environ, lambda stream, line: None)


@pytest.mark.parametrize("line", [
    "--index-url http://evil.example", "-e .", "git+https://evil.example/x", "x @ https://evil.example/x.whl",
    "./local", "-r more.txt", "numpy==1 --index-url=http://evil.example", "numpy==${FLAMBEAU_API_KEY}",
])  # fmt: skip
def test_other_sources_than_the_configured_index_are_refused(line):
    refuse_options("numpy>=1\nrequests[socks]==2.*; python_version > '3'  # a comment\n# another\n\n")

    with pytest.raises(InvalidModel, match="line 2"):
        refuse_options(f"numpy\n{line}\n")


def test_a_comment_does_not_go_on_and_a_hash_may():
    refuse_options("numpy==1 \\\n  --hash=sha256:abc \\\n  --hash=sha256:def\n")

    with pytest.raises(InvalidModel, match="line 2"):
        refuse_options("# for pip a comment ends here \\\n--index-url http://evil.example\n")


@pytest.mark.parametrize("allowed", ["true", "false"])
def test_a_models_requirements_are_installed_only_where_the_server_allows_it(live_server, wheels, allowed):
    server = live_server(install_py_dep_per_model=allowed)
    server.archive("m", HANDLER)
    manifest = server.store / "m" / "MAR-INF" / "MANIFEST.json"
    document = json.loads(manifest.read_text())
    document["model"]["requirementsFile"] = "requirements.txt"
    manifest.write_text(json.dumps(document))
    (server.store / "m" / "requirements.txt").write_text("tiny-dep\n")

    if allowed == "true":
        server.client.register("m", initial_workers=1)
        assert server.client.predict("m", b"") == b"installed"
    else:
        with pytest.raises(Exception, match="No module named 'tiny_dep'"):
            server.client.register("m", initial_workers=1)
