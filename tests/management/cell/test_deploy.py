"""Published models as folders: what their manifest and YAML say, and what can't be deployed."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from flambeau.archiver.unpack import open_archive
from flambeau.management.cell.deploy import deploy
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.messages import Order
from flambeau.management.cell.servables import Servables

HUB = ("hf://org/.*",)
GEMMA = "saxml.server.torch.vllm.Gemma4B"


def order(path=GEMMA, checkpoint="None", revision=1, **overrides):
    return Order(path=path, checkpoint=checkpoint, overrides=overrides, replicas=1, revision=revision)


def written(tmp_path, wanted, store=None, allowed=()):
    servable = Servables(store).find(wanted.path)
    folder = deploy(servable, "/sax/test/m", "m", wanted, tmp_path / "deployed", allowed)
    return folder, yaml.safe_load((folder / "model-config.yaml").read_text())


@pytest.fixture
def store(tmp_path):
    archive = tmp_path / "store" / "caption"
    (archive / "MAR-INF").mkdir(parents=True)
    (archive / "MAR-INF" / "MANIFEST.json").write_text(
        json.dumps({"model": {"modelName": "caption", "handler": "h.py", "modelVersion": "7", "configFile": "c.yaml"}})
    )
    (archive / "c.yaml").write_text(yaml.safe_dump({
        "batchSize": 4,
        "sax": {"path": "my.Captioner", "aliases": ["captioner"], "methods": ["lm.generate"], "settings": {"BEAMS": 4}},
    }))  # fmt: skip
    (archive / "h.py").write_text("def handle(data, context): return data")
    return archive.parent


@pytest.mark.parametrize("path", [GEMMA, "saxml.server.torch.vllm.Gemma4b", "saxml.server.torch.vllm_params.Gemma4B",
                                  "saxml.server.torch.lm.Gemma4b", "lm_cloud.LmCloudSpmd2BTest"])  # fmt: skip
def test_the_seeds_paths_are_language_models(tmp_path, path):
    folder, document = written(tmp_path, order(path))

    archive = open_archive(folder, tmp_path / "opened")
    assert archive.manifest.handler == "text_generation" and archive.manifest.model_version == "1"
    assert set(document["sax"]["methods"]) == {"lm.generate", "lm.generate_stream", "lm.score", "lm.embed"}
    assert path in Servables(None).paths()


def test_overrides_reach_engine_and_http_side(tmp_path):
    _, document = written(
        tmp_path, order(NUM_SAMPLES="3", BATCH_SIZE="4", TEMPERATURE="0", MAX_DECODE_STEPS="[8, 16]", UNKNOWN="1")
    )

    assert document["handler"]["max_batch_rows"] == 4
    assert (document["sax"]["samples"], document["sax"]["max_steps"]) == (3, 16)
    assert document["sax"]["extra_inputs"]["temperature"] == 0.0
    assert document["sax"]["extra_inputs"]["per_example_max_decode_steps"] == 16


def test_the_archive_says_of_which_publication_it_is(tmp_path):
    wanted = Order(path=GEMMA, checkpoint="None", overrides={}, replicas=1, uuid="17")

    assert written(tmp_path, wanted)[1]["sax"]["uuid"] == "17"


@pytest.mark.parametrize(("checkpoint", "model_path"), [
    ("/models/x", "/models/x"), ("hf://org/m", "hf://org/m"), ("org/model-1.5B", "hf://org/model-1.5B"),
    ("file:///models/x", "/models/x"),
])  # fmt: skip
def test_a_checkpoint_is_a_folder_or_a_name_of_the_hub(tmp_path, checkpoint, model_path):
    assert written(tmp_path, order(checkpoint=checkpoint), allowed=HUB)[1]["handler"]["model_path"] == model_path


def test_a_name_of_the_hub_in_an_override_is_one_too(tmp_path):
    wanted = order(HF_MODEL_PATH='"org/m"')

    assert written(tmp_path, wanted, allowed=HUB)[1]["handler"]["model_path"] == "hf://org/m"
    with pytest.raises(SaxError, match="allowed_urls=hf://org/m"):
        written(tmp_path, wanted)


@pytest.mark.parametrize(("checkpoint", "line"), [
    ("hf://org/m", "allowed_urls=hf://org/m"), ("org/m", "allowed_urls=hf://org/m"),
    ("http://host/a+b", "allowed_urls=http://host/a.b"), ("s3://bucket/m", "allowed_urls=s3://bucket/m"),
])  # fmt: skip
def test_a_checkpoint_elsewhere_must_be_allowed_and_the_refusal_names_the_line(tmp_path, checkpoint, line):
    with pytest.raises(SaxError) as refused:
        written(tmp_path, order(checkpoint=checkpoint))

    assert refused.value.code == "FailedPrecondition" and refused.value.text.endswith(line)


def test_a_checkpoint_behind_a_url_is_fetched_once(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/weights/config.json", b"{}")

    allowed = ("memory://.*",)
    first = written(tmp_path, order(checkpoint="memory://weights"), allowed=allowed)[1]["handler"]["model_path"]
    memory.rm("/weights", recursive=True)
    second = written(tmp_path, order(checkpoint="memory://weights", revision=2), allowed=allowed)[1]["handler"][
        "model_path"
    ]

    assert first == second and (Path(first) / "config.json").read_text() == "{}"


def test_checkpoints_whose_names_are_alike_are_kept_apart(tmp_path):
    import fsspec

    memory, found = fsspec.filesystem("memory"), []
    for name in ("a_b/c", "a/b_c"):
        memory.pipe_file(f"/{name}/config.json", name.encode())
        _, document = written(tmp_path, order(checkpoint=f"memory://{name}"), allowed=("memory://.*",))
        found.append((Path(document["handler"]["model_path"]) / "config.json").read_text())

    assert found == ["a_b/c", "a/b_c"]


def test_a_checkpoint_over_http_is_one_file_fetched_as_archives_are(tmp_path, store):
    (tmp_path / "weights.v1.bin").write_bytes(b"weights")
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        wanted = order("store.caption", checkpoint=f"{host}/weights.v1.bin")
        _, document = written(tmp_path, wanted, store, allowed=("http://127.0.0.1:.*",))
        with pytest.raises(SaxError, match=r"Failed to download archive from: .*/none"):
            written(tmp_path, order("store.caption", checkpoint=f"{host}/none"), store, allowed=("http://127.0.0.1:.*",))
        server.shutdown()

    assert Path(document["sax"]["checkpoint"]).read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "deployed/checkpoints").iterdir()] == [
        Path(document["sax"]["checkpoint"]).name
    ]


def test_whatever_a_driver_raises_is_told_in_one_line(tmp_path, monkeypatch):
    import fsspec

    def get(self, *given, **more):
        raise RuntimeError("the bucket\nis not yours")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get", get)
    with pytest.raises(SaxError, match="RuntimeError: the bucket is not yours"):
        written(tmp_path, order(checkpoint="memory://weights/x"), allowed=("memory://.*",))


def test_an_archive_of_the_store_is_a_servable_by_its_name_and_by_what_it_says(tmp_path, store):
    for path in ("store.caption", "my.Captioner", "captioner"):
        assert path in Servables(store).paths()
        folder, document = written(tmp_path, order(path, BEAMS="2"), store)

        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]
        assert (manifest["modelName"], manifest["modelVersion"], manifest["handler"]) == ("m", "1", "h.py")
        assert document["batchSize"] == 4 and document["sax"]["settings"] == {"BEAMS": 2}
        assert document["sax"]["methods"] == ["lm.generate"]
    assert json.loads((store / "caption/MAR-INF/MANIFEST.json").read_text())["model"]["modelName"] == "caption"


@pytest.mark.parametrize("wanted", [
    pytest.param(order("no.such.Servable"), id="no such path"),
    pytest.param(order(TEMPERATURE='"hot"'), id="a type that does not fit"),
    pytest.param(order(checkpoint="memory+x://x"), id="a scheme without driver"),
    pytest.param(order("store.none"), id="no such archive"),
])  # fmt: skip
def test_what_cannot_be_deployed_says_why(tmp_path, store, wanted):
    with pytest.raises(SaxError):
        written(tmp_path, wanted, store, allowed=("memory.*",))
