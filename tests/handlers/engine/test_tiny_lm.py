"""The trained model of examples/tiny_lm through the engine: what random weights can't show."""

import json
import random
from functools import cache
from pathlib import Path

import msgspec
import pytest
import text_fakes as worker
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flambeau.handlers.engine.text_stream import TextStream
from flambeau.handlers.generation import GenerationRequest, SamplingParams, ScoreAnswer, ScoreRequest
from flambeau.handlers.scoring import Scoring
from flambeau.handlers.text_generation import TextGeneration
from flambeau.handlers.tokenizer import HfTokenizer

FOLDER = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"
TOKENS = json.loads((FOLDER / "held_out.json").read_text())
TEXTS = [TOKENS[at : at + 257] for at in range(0, len(TOKENS), 257)]
PROMPTS = ["The license", "If the file is not", "def ", "Return the", "This module", "For more information, see"]


@cache
def loss(quantize=None, dtype="float32"):
    """Nats per token on held-out text, as the engine scores it."""
    model = worker.start(Scoring, FOLDER, quantize=quantize, dtype="auto" if quantize else dtype)
    losses = []

    def sink(event):
        losses.extend(-logprob.logprob for logprob in event.prompt_logprobs)

    for ids in TEXTS:
        model.engine.add_request(ids, SamplingParams(max_tokens=0), sink, kind="score")
    while model.engine.step():
        pass
    assert len(losses) == len(TOKENS) - len(TEXTS)
    return sum(losses) / len(losses)


def test_its_loss_is_the_models_own():
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.inference_mode():
        ids = torch.tensor(TEXTS)
        own = float(model(ids, labels=ids).loss)

    assert loss() == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.002), ("nf4", 0.01)])
def test_quantized_weights_lose_little(quantize, most):
    assert abs(loss(quantize) - loss()) < most


def test_16_bits_lose_next_to_nothing():
    assert abs(loss(dtype="bfloat16") - loss()) < 0.002


@cache
def wanted():
    """Prompts, how many tokens, and what generate() gives for them."""
    reference = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    asked = []
    for number in range(32):
        prompt, tokens = PROMPTS[number % 6] + " x" * (number % 5), 4 + number // 2
        ids = torch.tensor([tokenizer.encode(prompt)])
        own = reference.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        asked.append((prompt, tokens, own[0, ids.shape[1] :].tolist()))
    return asked


@pytest.mark.parametrize("engine", ["fused", "hf"])
def test_32_mixed_requests_get_what_generate_gives(engine):
    model = worker.start(TextGeneration, FOLDER, engine=engine, dtype="float32")
    replies = [
        worker.send(
            model,
            "generate",
            GenerationRequest(prompt=prompt, sampling=SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)),
        )
        for prompt, tokens, _ in wanted()
    ]
    worker.run(model, *replies)

    got = [[token for event in worker.events(reply) for token in event.token_ids] for reply in replies]
    assert got == [own for _, _, own in wanted()]


def test_seeded_text_is_the_same_alone_and_in_a_crowd_of_32():
    model = worker.start(TextGeneration, FOLDER, dtype="float32")

    def ask(seed):
        sampling = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=seed, max_tokens=24)
        return worker.send(model, "generate", GenerationRequest(prompt=PROMPTS[seed % 6], sampling=sampling))

    alone = [worker.text(worker.run(model, ask(seed))) for seed in range(4)]
    crowd = worker.run(model, *[ask(seed) for seed in range(32)])

    assert [worker.text(reply) for reply in crowd[:4]] == alone
    assert len({worker.text(reply) for reply in crowd}) == 32


def test_scores_come_in_the_texts_own_words():
    model = worker.start(Scoring, FOLDER)

    reply = worker.run(
        model, worker.send(model, "score", ScoreRequest(prefix="The", suffixes=[" license", " zebra zebra"]))
    )

    likely, unlikely = msgspec.msgpack.decode(reply.body, type=ScoreAnswer).scores
    assert likely > unlikely


def score(model, prefix, *suffixes):
    reply = worker.run(model, worker.send(model, "score", ScoreRequest(prefix=prefix, suffixes=[*suffixes])))
    return msgspec.msgpack.decode(reply.body, type=ScoreAnswer)


@torch.inference_mode()
def own_score(before, after):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    ids = torch.tensor([before + after])
    values = torch.log_softmax(model(ids).logits[0], -1)
    return sum(float(values[at - 1, ids[0, at]]) for at in range(len(before), ids.shape[1]))


def test_a_suffix_that_would_melt_into_the_prefix_has_tokens_of_its_own():
    model = worker.start(Scoring, FOLDER, dtype="float32")
    encode = model.tokenizer.encode
    assert len(encode(" file")) == 1

    answer = score(model, " fi", "le", " license")

    assert answer.scores == pytest.approx(
        [own_score(encode(" fi"), encode("le")), own_score(encode(" fi"), encode(" license"))], abs=1e-3
    )
    assert answer.token_counts == [1, 1]


def test_blanks_before_a_suffix_are_its_own():
    model = worker.start(Scoring, FOLDER, dtype="float32")

    assert score(model, "The ", "license", "file") == score(model, "The", " license", " file")


def test_the_first_token_of_a_text_is_scored_too():
    model = worker.start(Scoring, FOLDER, dtype="float32")
    first, text = model.tokenizer.beginning, model.tokenizer.encode("There")

    answer = score(model, "", "There", "")

    assert answer.scores == pytest.approx([own_score(first, text), 0], abs=1e-3) and answer.token_counts == [len(text), 0]


def test_pieces_add_up_to_what_decoding_at_once_gives():
    tokenizer, chance = HfTokenizer.load(FOLDER), random.Random(2)
    for _ in range(20):
        ids = [chance.randrange(tokenizer.vocab_size) for _ in range(60)]
        stream = TextStream(tokenizer.decode, context=[5], text_of=lambda token: tokenizer.token_text(token, True))

        shown = "".join(stream.push([token]).text for token in ids) + stream.finish().text

        assert tokenizer.decode([5]) + shown == tokenizer.decode([5, *ids])
