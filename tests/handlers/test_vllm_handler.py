import logging

import pytest

from flambeau.handlers import vllm_handler
from flambeau.handlers.engine.config import ConfigError, read
from flambeau.handlers.vllm_handler import in_our_words


@pytest.fixture(autouse=True, params=[True, False], ids=["vLLM", "no vLLM"])
def engine(request, monkeypatch):
    monkeypatch.setattr(vllm_handler.importlib.util, "find_spec", lambda name: request.param or None)
    return "vllm" if request.param else "auto"


def test_the_launchers_yaml_becomes_ours(tmp_path, engine, caplog):
    yaml = {
        "model_path": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "vllm_engine_config": {
            "max_num_seqs": 16, "max_model_len": None, "download_dir": "/cache", "tensor_parallel_size": 4,
            "served_model_name": ["llama"], "enforce_eager": True,
        },
    }  # fmt: skip

    with caplog.at_level(logging.WARNING):
        config = read(in_our_words(yaml, tmp_path))

    assert (config.engine, config.model_path) == (engine, "hf://meta-llama/Meta-Llama-3.1-8B-Instruct")
    assert (config.max_batch_rows, config.num_gpu_per_model, config.cuda_graphs) == (16, 4, False)
    assert caplog.messages == ["vllm_engine_config: without effect here: download_dir"]


def test_weights_in_the_archive_go_before_the_hub(tmp_path):
    (tmp_path / "model" / "snapshots").mkdir(parents=True)

    section = in_our_words({"model_path": "model/snapshots", "engine": "mock"}, tmp_path)

    assert (section["model_path"], section["engine"]) == ("model/snapshots", "mock")


def test_adapters_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="LoRA"):
        in_our_words({"model_path": "m", "adapters": {"a": "path"}}, tmp_path)
