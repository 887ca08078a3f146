"""Published models as folders: what their manifest and YAML say, and what can't be deployed."""

import json
from pathlib import Path

import pytest
import yaml

from flambeau.archiver.unpack import open_archive
from flambeau.management.cell.deploy import deploy
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.messages import Order
from flambeau.management.cell.servables import Servables

GEMMA = "saxml.server.torch.vllm.Gemma4B"


def order(path=GEMMA, checkpoint="None", revision=1, **overrides):
    return Order(path=path, checkpoint=checkpoint, overrides=overrides, replicas=1, revision=revision)


def written(tmp_path, wanted, store=None):
    servable = Servables(store).find(wanted.path)
    folder = deploy(servable, "/sax/test/m", "m", wanted, tmp_path / "deployed")
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
    assert written(tmp_path, order(checkpoint=checkpoint))[1]["handler"]["model_path"] == model_path


def test_a_checkpoint_behind_a_url_is_fetched_once(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/weights/config.json", b"{}")

    first = written(tmp_path, order(checkpoint="memory://weights"))[1]["handler"]["model_path"]
    memory.rm("/weights", recursive=True)
    second = written(tmp_path, order(checkpoint="memory://weights", revision=2))[1]["handler"]["model_path"]

    assert first == second and (Path(first) / "config.json").read_text() == "{}"


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
    pytest.param(order(checkpoint="nosuch://x"), id="a scheme without driver"),
    pytest.param(order("store.none"), id="no such archive"),
])  # fmt: skip
def test_what_cannot_be_deployed_says_why(tmp_path, store, wanted):
    with pytest.raises(SaxError):
        written(tmp_path, wanted, store)
