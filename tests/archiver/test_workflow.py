import json
import zipfile

import pytest

from flambeau.archiver.workflow import main


@pytest.fixture
def archive(tmp_path):
    for name in ("spec.yaml", "functions.py", "labels.json"):
        (tmp_path / name).write_text(name)

    def run(*arguments):
        spec = ["--spec-file", str(tmp_path / "spec.yaml"), "--handler", str(tmp_path / "functions.py")]
        main(["--workflow-name", "dogs", "--export-path", str(tmp_path), *spec, *arguments])
        with zipfile.ZipFile(tmp_path / "dogs.war") as made:
            return json.loads(made.read("WAR-INF/MANIFEST.json")), sorted(made.namelist())

    return run


def test_a_workflow_archive_is_what_the_original_makes(archive, tmp_path):
    manifest, names = archive("--extra-files", str(tmp_path / "labels.json"))

    assert list(manifest) == ["createdOn", "workflow", "archiverVersion"]
    assert manifest["workflow"] == {"workflowName": "dogs", "specFile": "spec.yaml", "handler": "functions.py"}
    assert names == ["WAR-INF/MANIFEST.json", "functions.py", "labels.json", "spec.yaml"]


def test_a_workflow_archive_is_overwritten_only_when_told(archive):
    archive()

    with pytest.raises(SystemExit, match="already exists"):
        archive()
    archive("--force")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--workflow-name", "a/b"], "special characters", id="a path as name"),
        pytest.param(["--handler", "nowhere.py"], "does not exist", id="no such handler"),
        pytest.param(["--export-path", "/no/such/folder"], "not a directory", id="no such folder"),
    ],
)
def test_what_cannot_be_packed_is_said(archive, arguments, complaint, tmp_path):
    with pytest.raises(SystemExit, match=complaint):
        archive(*arguments)
    assert not list(tmp_path.glob(".packing-*"))
