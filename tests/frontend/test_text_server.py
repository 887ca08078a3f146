"""The whole server with a language model, as `flambeau serve` arranges it, asked by clients of each text API."""

import json
import urllib.request

import openai
import pytest
import requests

from flambeau.management.one_model import as_archive

from ..conftest import LiveServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    model = as_archive("mock", "m", None, {"mock": {"steps_per_second": 300}}, folder / "served")
    (folder / "server").mkdir()
    started = LiveServer(folder / "server", {"vllm_metrics": "true"}, ("--ncs", "--dt", "--models", f"m={model.path}"))
    started.start()
    started.wait(lambda: started.client.models() and started.workers("m"))
    yield started
    started.stop()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.client.inference}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_model_is_listed_with_what_its_worker_can_do(client):
    assert [model.id for model in client.models.list()] == ["m"]


def test_openai_s_client_streams_from_it(client):
    chunks = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=8, stream=True
    )

    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == 8


def test_one_prompt_means_the_same_to_every_api(server, client):
    asked = {"max_tokens": 12, "temperature": 1.0, "top_k": 1}
    by_openai = client.completions.create(model="m", prompt="Once", max_tokens=12, temperature=0).choices[0].text
    by_helm = requests.post(f"{server.client.inference}/predictions/m", json={"prompt": "Once", **asked}, timeout=30).json()
    by_falcon = requests.post(f"{server.client.inference}/inference/m", json={"text": "Once", **asked}, timeout=30)

    assert by_helm["choices"][0]["text"] == by_falcon.text.removesuffix("<|endoftext|>") == by_openai


def test_torchserves_place_for_a_language_models_routes(server):
    """Of an archive as its launcher made them; the body names the model by its name on the hub."""
    server.archive("llm", model_name="llm", yaml="handler: {engine: mock, vllm_engine_config: {max_num_seqs: 4}}")
    manifest = server.store / "llm" / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace("handler.py", "vllm_handler"))
    server.client.register("llm", initial_workers=1)
    body = {"model": "meta-llama/Llama", "max_tokens": 4}
    url = f"{server.client.inference}/predictions/llm/1.0/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        chunks = list(client.chat.completions.create(**body, messages=[{"role": "user", "content": "hi"}], stream=True))

        assert len(client.completions.create(**body, prompt="Once").choices[0].text) == 4
        assert [model.id for model in client.models.list()] == ["llm"]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="llm", input="x")
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)) == 4
    server.client.unregister("llm")


def test_what_the_engine_did_is_among_the_metrics(server, client):
    client.completions.create(model="m", prompt="hello", max_tokens=5)

    def counted():
        text = urllib.request.urlopen(f"{server.client.metrics}/metrics").read().decode()
        return "LlmGeneratedTokens{" in text and "vllm:generation_tokens_total{" in text

    server.wait(counted)


def test_a_model_without_a_text_engine_says_so(server, client):
    server.archive("echo")
    server.client.register("echo", initial_workers=1)

    assert [model.id for model in client.models.list()] == ["m"]
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="echo", prompt="hello")
    refused = requests.post(f"{server.client.inference}/inference/echo", json={"text": "x"}, timeout=30)
    assert refused.status_code == 400 and json.loads(refused.text)["message"]
