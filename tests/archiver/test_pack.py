import json
import zipfile

import pytest

from flambeau.archiver.cli import main


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "h.py").write_text("")
    (tmp_path / "w.pt").write_text("weights")

    def run(*arguments):
        main(["--model-name", "m", "--version", "1.0", "--export-path", str(tmp_path), *arguments])
        with zipfile.ZipFile(tmp_path / "m.mar") as made:
            return json.loads(made.read("MAR-INF/MANIFEST.json")), set(made.namelist())

    return run


@pytest.mark.parametrize(
    ("given", "said"),
    [("{}/h.py", "h.py"), ("{}/h:run", "h:run"), ("{}/h.py:run", "h:run"), ("image_classifier", "image_classifier")],
)
def test_a_handler_is_a_file_a_function_of_one_or_a_built_in_name(archive, tmp_path, given, said):
    manifest, _ = archive("--handler", given.format(tmp_path))

    assert manifest["model"]["handler"] == said


def test_the_manifest_has_the_original_s_keys(archive, tmp_path):
    manifest, names = archive("--handler", f"{tmp_path}/h.py", "--serialized-file", f"{tmp_path}/w.pt")

    assert set(manifest) == {"createdOn", "runtime", "model", "archiverVersion"}
    assert manifest["model"] == {"modelName": "m", "serializedFile": "w.pt", "handler": "h.py", "modelVersion": "1.0"}
    assert names == {"h.py", "w.pt", "MAR-INF/MANIFEST.json"}


def test_an_archive_is_overwritten_only_when_told(archive, tmp_path):
    archive("--handler", f"{tmp_path}/h.py")

    with pytest.raises(SystemExit, match="already exists"):
        archive("--handler", f"{tmp_path}/h.py")
    archive("--handler", f"{tmp_path}/h.py", "-f")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--handler", "nowhere.py"], "Unable to find the handler", id="no such handler"),
        pytest.param(["--handler", "base_handler", "--extra-files", "no*such"], "does not exist", id="no such extra file"),
        pytest.param(["--handler", "base_handler", "--model-name", "a/b"], "special characters", id="a path as name"),
    ],
)
def test_what_cannot_be_packed_is_said(archive, arguments, complaint, tmp_path):
    with pytest.raises(SystemExit, match=complaint):
        archive(*arguments)
    assert not list(tmp_path.glob(".packing-*"))
