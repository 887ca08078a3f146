import contextlib
import gzip
import json
import os
import random
import tarfile
import tracemalloc
import zipfile

import pytest

from flambeau.archiver.errors import InvalidModel
from flambeau.archiver.pack import PackRequest, pack
from flambeau.archiver.unpack import Limits, open_archive, read_manifest

from .hostile import MANIFEST, TARS, ZIPS, comment, headers, tar_with, zip_with

LIMITS = Limits(total_bytes=1 << 30, ratio=100, ratio_from_bytes=16 << 20, members=500)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        *(pytest.param(write, "m.mar", id=what) for what, write in ZIPS.items()),
        *(pytest.param(write, "m.tar.gz", id=what) for what, write in TARS.items()),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing_behind(tmp_path, write, name):
    (tmp_path / "models").mkdir()
    write(tmp_path / name)
    before = listing(tmp_path)

    with pytest.raises(InvalidModel):
        open_archive(tmp_path / name, tmp_path / "models", LIMITS)

    assert listing(tmp_path) == before
    assert not os.path.exists("/tmp/escaped")


@pytest.mark.parametrize("hostile", ["link", "pipe"])
def test_a_hostile_folder_is_refused_and_leaves_nothing_behind(tmp_path, hostile):
    folder = tmp_path / "m"
    folder.mkdir()
    if hostile == "link":
        (folder / "link").symlink_to("/etc/passwd")
    else:
        os.mkfifo(folder / "pipe")

    with pytest.raises(InvalidModel):
        open_archive(folder, tmp_path / "models", LIMITS)

    assert listing(tmp_path / "models") == []


def test_more_members_than_the_limit_are_refused(tmp_path):
    zip_with(*((f"f{number}", b"") for number in range(600)))(tmp_path / "m.mar")

    with pytest.raises(InvalidModel, match="more than 500 members"):
        open_archive(tmp_path / "m.mar", tmp_path / "models", LIMITS)


def test_folders_that_stand_in_names_only_count_as_members(tmp_path):
    zip_with(*((f"{number}/a/b/c/d/f", b"") for number in range(100)))(tmp_path / "m.mar")

    with pytest.raises(InvalidModel, match="more than 500 members"):
        open_archive(tmp_path / "m.mar", tmp_path / "models", LIMITS)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        pytest.param(headers(1, comment(50 << 10), members=400), "m.tar.gz", id="headers of a tar"),
        pytest.param(zip_with(*((f"f{number}", b"") for number in range(20_000))), "m.mar", id="a zip's directory"),
    ],
)
def test_what_an_archive_says_of_its_members_is_not_kept_in_memory(tmp_path, write, name):
    write(tmp_path / name)

    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidModel):
            open_archive(tmp_path / name, tmp_path / "models", Limits(members=1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 << 20


@pytest.mark.parametrize("key", ["configFile", "requirementsFile"])
def test_a_manifest_cannot_name_a_file_outside(tmp_path, key):
    manifest = json.loads(MANIFEST)
    manifest["model"][key] = "../../etc/passwd"
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))

    with pytest.raises(InvalidModel, match="outside"):
        open_archive(tmp_path / "m.mar", tmp_path / "models", LIMITS)


@pytest.mark.parametrize("key", ["configFile", "model"])
def test_what_an_archive_says_of_itself_is_refused_before_it_is_unpacked_to_its_place(tmp_path, key):
    manifest = {"model": {"modelName": "m", "configFile": "c.yaml"} if key == "configFile" else 7}
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("c.yaml", "[")

    with pytest.raises(InvalidModel):
        open_archive(tmp_path / "m.mar", tmp_path / "models", LIMITS)

    assert listing(tmp_path / "models") == []


@pytest.mark.parametrize("handler", ["h\ud800:f", "h\0"], ids=["half a letter", "a NUL"])
def test_a_manifest_s_words_are_text_that_can_be_sent_on(tmp_path, handler):
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "m", "handler": handler}}))

    with pytest.raises(InvalidModel, match="handler is no text"):
        open_archive(tmp_path / "m.mar", tmp_path / "models", LIMITS)


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_what_was_packed_is_what_is_opened(tmp_path, archive_format):
    (tmp_path / "h.py").write_text("def handle(data, context): ...\n")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "words.txt").write_text("one two")
    (tmp_path / "c.yaml").write_text("batchSize: 4\nmine: {a: 1}\n")
    packed = pack(
        PackRequest(
            model_name="m", version="2.5", handler=f"{tmp_path}/h.py:handle", extra_files=[str(tmp_path / "extra")],
            config_file=tmp_path / "c.yaml", archive_format=archive_format, export_path=tmp_path,
        )
    )  # fmt: skip

    opened = open_archive(packed, tmp_path / "models", LIMITS)

    assert (opened.manifest.model_name, opened.manifest.model_version, opened.manifest.handler) == ("m", "2.5", "h:handle")
    assert (opened.config.batchSize, opened.config.raw["mine"]) == (4, {"a": 1})
    assert (opened.model_dir / "words.txt").read_text() == "one two"
    assert opened.model_dir == tmp_path / "models" / opened.content_hash
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
    assert open_archive(packed, tmp_path / "models", LIMITS) == opened
    assert read_manifest(packed) == opened.manifest


def test_an_archive_without_manifest_opens_and_says_nothing_of_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("h.py", "")

    manifest = open_archive(tmp_path / "m.mar", tmp_path / "models").manifest

    with pytest.raises(InvalidModel, match="Model name is not defined"):
        manifest.named(None, None)
    assert manifest.named("m", "h.py").model_version == "1.0"


@pytest.mark.parametrize("seed", range(8))
def test_bytes_that_are_wrong_are_refused_or_harmless(tmp_path, seed):
    """Mutated archives raise InvalidModel or open; no reader's own exception gets out, no file neither."""
    chance = random.Random(seed)
    (tmp_path / "models").mkdir()
    for _ in range(40):
        write, name = chance.choice(
            [
                (zip_with(("h.py", b"x" * 20), ("d/x", b"y")), "m.mar"),
                (tar_with((tarfile.TarInfo("m/h.py"), b"x" * 20)), "m.tar.gz"),
            ]
        )
        write(tmp_path / name)
        data = bytearray(
            (tmp_path / name).read_bytes() if name == "m.mar" else gzip.decompress((tmp_path / name).read_bytes())
        )
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.choice([0, 255, 47, 46, 55, chance.randrange(256)])
        (tmp_path / name).write_bytes(data if name == "m.mar" else gzip.compress(data, 1))

        with contextlib.suppress(InvalidModel):
            open_archive(tmp_path / name, tmp_path / "models", LIMITS)

    assert {path.name for path in tmp_path.iterdir()} <= {"models", "m.mar", "m.tar.gz"}
    assert not [path for path in (tmp_path / "models").iterdir() if path.name.startswith(".")]
