import json
import os
import zipfile

import pytest

from flambeau.archiver.cli import main
from flambeau.archiver.pack import PackRequest, pack
from flambeau.archiver.unpack import open_archive


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
        pytest.param(
            ["--handler", "base_handler", "--extra-files", "no-such"],
            "File does not exist: no-such",
            id="no such extra file",
        ),
        pytest.param(["--handler", "base_handler", "--model-name", "a/b"], "special characters", id="a path as name"),
    ],
)
def test_what_cannot_be_packed_is_said(archive, arguments, complaint, tmp_path):
    with pytest.raises(SystemExit, match=complaint):
        archive(*arguments)
    assert not list(tmp_path.glob(".packing-*"))


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_links_are_followed_and_hidden_folders_left_out(tmp_path, archive_format):
    """Snapshots of the Hugging Face cache are folders of links."""
    (tmp_path / "snapshot" / ".git").mkdir(parents=True)
    (tmp_path / "snapshot" / ".git" / "config").write_text("")
    (tmp_path / "blob").write_text("weights")
    (tmp_path / "snapshot" / "model.bin").symlink_to(tmp_path / "blob")
    os.link(tmp_path / "blob", tmp_path / "snapshot" / "twin.bin")

    packed = pack(
        PackRequest(
            model_name="m", version="1.0", handler="base_handler", extra_files=[str(tmp_path / "snapshot")],
            archive_format=archive_format, export_path=tmp_path,
        )
    )  # fmt: skip

    folder = open_archive(packed, tmp_path / "models").model_dir
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["MANIFEST.json", "model.bin", "twin.bin"]
    assert (folder / "model.bin").read_text() == "weights"
