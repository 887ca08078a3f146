"""Models from folders, as users bring them: a tokenizer, a config.json, weights."""

import json
import logging

import jsonschema
import msgspec
import pytest
import text_fakes as worker
import tiny_models
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from flambeau.handlers.embedding import Embedding
from flambeau.handlers.engine import devices
from flambeau.handlers.engine.config import ConfigError, read
from flambeau.handlers.engine.encoder import EncoderEngine
from flambeau.handlers.generation import (
    EmbedAnswer,
    EmbedRequest,
    GenerationRequest,
    SamplingParams,
    ScoreAnswer,
    ScoreRequest,
)
from flambeau.handlers.scoring import Scoring
from flambeau.handlers.text_generation import TextGeneration

VOCABULARY = 300


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ENCODERS = {
    "bert": (BertModel, BertConfig(vocab_size=VOCABULARY, **SMALL)),
    "bert-40": (BertModel, BertConfig(vocab_size=VOCABULARY, max_position_embeddings=40, **SMALL)),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=42, **SMALL)),
    "mpnet": (MPNetModel, MPNetConfig(vocab_size=VOCABULARY, max_position_embeddings=42, **SMALL)),
}


def save_tokenizer(folder, **options):
    bytes_first = Tokenizer(models.BPE())
    bytes_first.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_first.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<end>"])
    bytes_first.train_from_iterator(["the cat sat on the mat and the dog ran"] * 3, trainer)
    if options.pop("closing", False):
        end = ("<end>", bytes_first.token_to_id("<end>"))
        bytes_first.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[end])
    PreTrainedTokenizerFast(tokenizer_object=bytes_first, eos_token="<end>", **options).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders by name, made when first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            save_tokenizer(made[name], closing=name in ENCODERS)
            if name in ENCODERS:
                kind, config = ENCODERS[name]
                kind(config).save_pretrained(made[name])
            else:
                tiny_models.model(name, vocab_size=VOCABULARY).save_pretrained(made[name])
        return made[name]

    return folder


def generate(model, prompt="the cat", **sampling):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 12, **sampling})
    return worker.run(model, worker.send(model, "generate", GenerationRequest(prompt=prompt, sampling=params)))


def embed(model, *inputs):
    reply = worker.run(model, worker.send(model, "embed", EmbedRequest(inputs=[*inputs])))
    return msgspec.msgpack.decode(reply.body, type=EmbedAnswer).embeddings


def test_a_folder_is_all_it_takes(folders):
    model = worker.start(TextGeneration, folders("llama"))

    reply = generate(model, ignore_eos=True)

    ids = model.tokenizer.encode("the cat")
    reference = tiny_models.model("llama", vocab_size=VOCABULARY)
    wanted = tiny_models.generate(reference, ids, 12)
    assert [token for event in worker.events(reply) for token in event.token_ids] == wanted
    assert worker.text(reply) == model.tokenizer.decode(wanted)


def test_a_model_our_attention_cannot_run_falls_back_and_says_so(folders, caplog):
    with caplog.at_level(logging.INFO):
        model = worker.start(TextGeneration, folders("mistral-window"))

    assert "falling back" in caplog.text and "window of 8" in caplog.text
    assert worker.events(generate(model, ignore_eos=True))[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("engine", ["fused", "hf"])
def test_a_prefix_is_copied_in_a_model_that_was_loaded(folders, engine):
    model = worker.start(TextGeneration, folders("llama"), engine=engine)

    reply = generate(model, "the cat sat on the mat and the dog ran", n=3, ignore_eos=True)

    assert worker.events(reply)[-1].usage.cached_tokens > 0
    texts = ["".join(event.text for event in worker.events(reply) if event.index == index) for index in range(3)]
    assert len(set(texts)) == 1


def test_logprobs_name_their_tokens(folders):
    model = worker.start(TextGeneration, folders("llama"))

    reply = generate(model, logprobs=2, ignore_eos=True)

    named = [logprob for event in worker.events(reply) for logprob in event.logprobs or []]
    assert len(named) == 12 and all(len(logprob.top) == 2 for logprob in named)
    assert named[0].token == model.tokenizer.token_text(named[0].token_id)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_is_kept_even_by_a_model_that_knows_nothing(folders, temperature):
    model = worker.start(TextGeneration, folders("llama"))

    reply = generate(model, max_tokens=80, temperature=temperature, seed=3, grammar=f"json_schema:{json.dumps(SCHEMA)}")

    jsonschema.validate(json.loads(worker.text(reply)), SCHEMA)
    assert worker.events(reply)[-1].finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_complete_text_ends_though_more_tokens_were_wanted(folders, temperature):
    model = worker.start(TextGeneration, folders("llama"))

    reply = generate(model, min_tokens=50, max_tokens=60, temperature=temperature, grammar="regex:the (cat|dog)")

    assert worker.text(reply) in ("the cat", "the dog")
    assert worker.events(reply)[-1].finish_reason == "stop"


def test_a_text_held_to_a_grammar_survives_its_preemption(folders):
    model = worker.start(TextGeneration, folders("llama"), max_batch_rows=1)
    params = SamplingParams(temperature=1, seed=3, max_tokens=80, grammar=f"json_schema:{json.dumps(SCHEMA)}")
    wanted = GenerationRequest(prompt="the cat", sampling=params, priority=1)
    alone = worker.run(model, worker.send(model, "generate", wanted))

    reply = worker.send(model, "generate", wanted)
    for _ in range(9):
        model.step()
    urgent = worker.send(model, "generate", GenerationRequest(prompt="dog", sampling=SamplingParams(max_tokens=3)))
    worker.run(model, reply, urgent)

    assert model.engine.stats().preempted == 1
    assert worker.text(reply) == worker.text(alone)


def test_a_schema_that_cannot_be_read_is_refused(folders):
    model = worker.start(TextGeneration, folders("llama"))

    request = GenerationRequest(prompt="x", sampling=SamplingParams(grammar='json_schema:{"type": "nonsense"}'))
    reply = worker.send(model, "generate", request)

    assert reply.status == 400 and ("param", "response_format") in reply.headers


def test_scores_are_sums_of_logprobs(folders):
    model = worker.start(Scoring, folders("llama"))

    reply = worker.run(model, worker.send(model, "score", ScoreRequest(prefix="the cat", suffixes=[" sat", " ran on"])))

    answer = msgspec.msgpack.decode(reply.body, type=ScoreAnswer)
    ids = torch.tensor([model.tokenizer.encode("the cat ran on")])
    start = len(model.tokenizer.encode("the cat"))
    with torch.inference_mode():
        truth = torch.log_softmax(tiny_models.model("llama", vocab_size=VOCABULARY)(ids).logits[0], -1)
    wanted = sum(float(truth[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
    assert answer.scores[1] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_encoders_and_decoders_embed(folders, name):
    model = worker.start(Embedding, folders(name))
    texts = ["the cat", "the dog sat on the mat", "a"]

    together = worker.run(model, worker.send(model, "embed", EmbedRequest(inputs=[*texts])))
    alone = worker.run(model, worker.send(model, "embed", EmbedRequest(inputs=[texts[0]])))

    first, single = (msgspec.msgpack.decode(reply.body, type=EmbedAnswer).embeddings[0] for reply in (together, alone))
    assert first == pytest.approx(single, abs=1e-5)
    assert sum(value * value for value in first) == pytest.approx(1)


def test_an_encoders_vectors_are_those_of_its_model(folders):
    model, ids = AutoModel.from_pretrained(folders("bert")).eval(), [5, 9, 3, 7]
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(model(torch.tensor([ids])).last_hidden_state.mean(1))[0]
    engine, got = EncoderEngine(model, max_model_len=32), []

    engine.add_request(ids, SamplingParams(), lambda event: got.append(event.embedding), kind="embed")
    engine.step()

    assert got == [pytest.approx(wanted.tolist(), abs=1e-5)]


@pytest.mark.parametrize("name", ["bert-40", "xlm-roberta", "mpnet"])
def test_an_encoder_cuts_a_long_text_to_its_40_positions_and_keeps_the_closing_token(folders, name):
    model, text = worker.start(Embedding, folders(name)), "z" * 60
    ids = model.tokenizer.encode(text)
    assert ids[:-1] == model.tokenizer.encode("z")[:1] * 60

    got = embed(model, text, [*ids[:39], ids[-1]])

    assert model.engine.max_model_len == 40
    assert got[0] == pytest.approx(got[1], abs=1e-5)


@pytest.mark.parametrize(
    ("of_tokenizer", "of_sentences", "section", "length"),
    [
        pytest.param(None, None, {}, 40, id="positions"),
        pytest.param(30, None, {}, 30, id="the tokenizer's"),
        pytest.param(30, 20, {}, 20, id="sentence-transformers'"),
        pytest.param(30, 20, {"max_model_len": 35}, 35, id="what was asked for"),
        pytest.param(30, 90, {"max_model_len": 99}, 40, id="no more than there are"),
    ],
)
def test_how_long_an_encoders_texts_may_be(tmp_path, of_tokenizer, of_sentences, section, length):
    kind, config = ENCODERS["xlm-roberta"]
    kind(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, **({"model_max_length": of_tokenizer} if of_tokenizer else {}))
    if of_sentences:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": of_sentences}))

    assert worker.start(Embedding, tmp_path, **section).engine.max_model_len == length


def test_a_long_text_does_not_wait_for_all_the_short_ones_that_come_after_it(folders):
    engine, done = EncoderEngine(AutoModel.from_pretrained(folders("bert")).eval(), max_model_len=500), []
    engine.add_request([5] * 500, SamplingParams(), lambda event: done.append("long"), kind="embed")
    for _ in range(3):
        for _ in range(20):
            engine.add_request([5] * 300, SamplingParams(), lambda event: done.append("short"), kind="embed")
        engine.step()

    assert "long" in done


def test_texts_that_an_encoder_fails_on_are_told_and_the_next_works(folders):
    model = worker.start(Embedding, folders("bert"))
    forward, model.engine._model.forward = model.engine._model.forward, None

    failed = worker.run(model, worker.send(model, "embed", EmbedRequest(inputs=["the cat", "a"])))
    model.engine._model.forward = forward

    assert (failed.status, failed.error) == (503, "InternalServerException")
    assert len(embed(model, "the cat")) == 1


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "int8"])
def test_quantized_weights_still_generate(folders, quantize):
    model = worker.start(TextGeneration, folders("llama"), quantize=quantize)

    assert worker.events(generate(model, ignore_eos=True))[-1].usage.completion_tokens == 12
    modules = model.engine.runner.model.modules()
    assert {type(module).__name__ for module in modules} & {"Linear4bit", "Linear8bitLt"}


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        pytest.param({"quantize": "nf3"}, "none of nf4, fp4, int8", id="a quantization that is none"),
        pytest.param({"max_batch_rows": 0}, "less than 1", id="no rows"),
        pytest.param({"gpu_max_memory": "much"}, "can't be used", id="a word for bytes"),
        pytest.param({"engine": "magic"}, "none of auto, hf", id="an engine that is none"),
        pytest.param({"mock": 3}, "not a mapping", id="a number for a mapping"),
    ],
)
def test_values_that_cannot_be_used_stop_the_loading(section, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read(section)


@pytest.mark.parametrize("key", ["gpu_max_memory", "per_gpu_mem"])
def test_memory_may_be_what_yaml_takes_for_a_string(key):
    assert read({key: "4.8e10"}).gpu_max_memory == 48_000_000_000


def test_more_gpus_than_there_are_are_refused(folders):
    gpus = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"{gpus + 2} are asked for, this machine has {gpus}"):
        worker.start(TextGeneration, folders("llama"), num_gpu_per_model=gpus + 2)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere has no config\.json"):
        worker.start(TextGeneration, tmp_path, model_path="nowhere")


@pytest.mark.parametrize(
    ("gpus", "per_model", "worker_gpu", "used"),
    [
        (8, 1, 3, [3]),
        (8, 2, 0, [0, 1]),
        (8, 2, 5, [2, 3]),
        (8, 2, 6, [4, 5]),
        (8, 4, 1, [4, 5, 6, 7]),
        (8, 4, 6, [0, 1, 2, 3]),
    ],
)
def test_workers_get_the_gpus_of_their_group(gpus, per_model, worker_gpu, used):
    assert devices.group(gpus, per_model, worker_gpu) == used


def test_a_large_model_takes_nothing_from_the_gpus_of_others():
    assert devices.max_memory(4, [2, 3], lambda gpu: 10 * gpu) == {0: 0, 1: 0, 2: 20, 3: 30}
