"""Held against what the original archivers made of the same arguments (original.json, original/)."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from flambeau.archiver.cli import main
from flambeau.archiver.unpack import open_archive

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "original.json").read_text())["cases"]
SOURCES = {
    "h.py": "def handle(data, context): ...\n", "w.pt": "weights", "model.py": "class M: pass\n", "a.txt": "a", "dir/b.txt": "b",
    "dir/sub/c.txt": "c", "requirements.txt": "torch\n", "c.yaml": "minWorkers: 1\n", "my-reqs.txt": "torch\n",
}  # fmt: skip


@pytest.fixture
def sources(tmp_path, monkeypatch):
    for name, text in SOURCES.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    monkeypatch.chdir(tmp_path / "src")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["arguments"])
def test_the_same_arguments_make_the_same_archive(sources, recorded):
    main(["--model-name", "m", "--version", "1.0", "--export-path", str(sources), *recorded["arguments"].split()])

    names, manifest = contents(sources / recorded["file"])
    manifest.pop("createdOn")
    assert (sorted(names), manifest) == (recorded["names"], recorded["manifest"])


def contents(path):
    if path.is_dir():
        names = [file.relative_to(path.parent).as_posix() for file in path.rglob("*") if file.is_file()]
        return names, json.loads((path / "MAR-INF/MANIFEST.json").read_text())
    if path.suffix == ".mar":
        with zipfile.ZipFile(path) as archive:
            return archive.namelist(), json.loads(archive.read("MAR-INF/MANIFEST.json"))
    with tarfile.open(path) as archive:
        return archive.getnames(), json.load(archive.extractfile("m/MAR-INF/MANIFEST.json"))


@pytest.mark.parametrize("name", ["echo.mar", "echo-store.mar", "echo.tar.gz"])
def test_an_archive_of_the_original_opens(tmp_path, name):
    opened = open_archive(HERE / "original" / name, tmp_path / "models")

    assert (opened.manifest.model_name, opened.manifest.handler, opened.config.minWorkers) == ("echo", "h.py", 1)
    assert sorted(path.name for path in opened.model_dir.rglob("*.*") if path.is_file()) == [
        "MANIFEST.json", "b.txt", "c.txt", "c.yaml", "h.py",
    ]  # fmt: skip


def test_an_original_folder_without_archive_opens(tmp_path):
    shutil.copytree(open_archive(HERE / "original" / "echo.mar", tmp_path / "models").model_dir, tmp_path / "echo")

    assert open_archive(tmp_path / "echo", tmp_path / "others").manifest.model_name == "echo"
