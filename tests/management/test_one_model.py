import json

import pytest
import yaml
from click.testing import CliRunner

from flambeau.archiver.manifest import MANIFEST_PATH
from flambeau.archiver.unpack import open_archive
from flambeau.cli import main
from flambeau.management.one_model import NotAModel, as_archive, handler_for


def weights(folder, architecture="LlamaForCausalLM"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return folder


def test_a_folder_of_weights_becomes_an_archive_that_points_to_it(tmp_path):
    folder = weights(tmp_path / "llama")

    found = as_archive(str(folder), None, None, {"quantize": "int8"}, tmp_path / "made")

    archive = open_archive(found.path, tmp_path / "models")
    assert (found.name, archive.manifest.handler) == ("llama", "text_generation")
    assert archive.config.raw["handler"] == {"model_path": str(folder), "quantize": "int8"}


def test_a_folder_named_model_is_called_as_the_one_around_it(tmp_path):
    assert as_archive(str(weights(tmp_path / "tiny" / "model")), None, None, {}, tmp_path / "made").name == "tiny"


@pytest.mark.parametrize("model", ["owner/name-7b", "hf://owner/name-7b"])
def test_a_name_on_the_hub_is_fetched_by_the_worker(tmp_path, model):
    found = as_archive(model, None, None, {}, tmp_path)

    assert found.name == "name-7b"
    assert yaml.safe_load((found.path / "model-config.yaml").read_text()) == {
        "handler": {"model_path": "hf://owner/name-7b"}
    }


def test_an_archive_is_taken_as_it_is(tmp_path):
    (tmp_path / "echo.mar").write_bytes(b"")
    (tmp_path / "folder" / MANIFEST_PATH).parent.mkdir(parents=True)
    (tmp_path / "folder" / MANIFEST_PATH).write_text("{}")

    assert as_archive(str(tmp_path / "echo.mar"), None, None, {}, tmp_path).name == "echo"
    assert as_archive(str(tmp_path / "folder"), "other", None, {}, tmp_path).name == "other"
    with pytest.raises(NotAModel, match="its own YAML"):
        as_archive(str(tmp_path / "echo.mar"), None, None, {"dtype": "float32"}, tmp_path)


@pytest.mark.parametrize("model", ["nothing", "./nothing.mar", "a/b/c"])
def test_what_is_no_model_is_refused(tmp_path, model):
    with pytest.raises(NotAModel):
        as_archive(model, None, None, {}, tmp_path)


def test_decoders_generate_and_encoders_embed(tmp_path):
    assert handler_for(weights(tmp_path / "a")) == "text_generation"
    assert handler_for(weights(tmp_path / "b", "BertModel")) == "embedding"


def test_run_prints_what_a_model_makes_of_a_prompt():
    done = CliRunner().invoke(main, ["run", "mock", "hello", "--max-tokens", "8", "--temperature", "0"])

    assert done.exit_code == 0, done.output
    assert len(done.stdout) == 9
    assert "8 tokens" in done.stderr


def test_run_tells_why_a_model_can_t_be_loaded(tmp_path):
    done = CliRunner().invoke(main, ["run", str(weights(tmp_path / "empty")), "hello", "--quantize", "int3"])

    assert done.exit_code == 1
    assert "int3" in done.stderr and "Traceback" not in done.stdout
