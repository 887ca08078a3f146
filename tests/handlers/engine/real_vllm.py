"""A worker with the trained example on a real vLLM: `make test-vllm`. Ours, in this process, says what is right."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import text_fakes
import worker_client
from worker_client import Kind

from flambeau.handlers.generation import GenerationEvent, GenerationRequest, SamplingParams, ScoreAnswer, ScoreRequest
from flambeau.handlers.protocol import EndHead
from flambeau.handlers.text_generation import TextGeneration

FOLDER = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"
SECTION = {"model_path": str(FOLDER), "dtype": "float32", "max_batch_rows": 8, "max_model_len": 256}
PROMPTS = ["The license of this file is", "def ", "If the file is not", "Return the", "For more information, see", "This"]


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    handler = {**SECTION, "engine": "vllm", "cuda_graphs": False}  # eager: compiling takes longer than all of this
    config = worker_client.config_of(
        tmp_path_factory.mktemp("vllm"), handler="text_generation", model_yaml={"handler": handler}
    )
    with worker_client.running(config) as started:
        yield started


@pytest.fixture(scope="module")
def ours():
    return text_fakes.start(TextGeneration, FOLDER, **SECTION)


def send(worker, operation, wanted):
    return worker.peer.send(msgspec.msgpack.encode(wanted), operation=operation, kind="")


def request(prompt, salt="", echo=False, **sampling):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 24, **sampling})
    return GenerationRequest(prompt=prompt, sampling=params, salt=salt, echo=echo)


def streams(worker, ids):
    """The events of several answers that come mixed, in the order of their ids."""
    found, open_ones = {id: [] for id in ids}, set(ids)
    while open_ones:
        frame = worker.peer.frame()
        if frame.kind == Kind.CHUNK:
            found[frame.id].append(msgspec.msgpack.decode(frame.body, type=GenerationEvent))
        elif frame.kind == Kind.END:
            assert not frame.head(EndHead).error
            open_ones.remove(frame.id)
    return [found[id] for id in ids]


def events(worker, prompt=PROMPTS[0], **asked):
    (found,) = streams(worker, [send(worker, "generate", request(prompt, **asked))])
    return found


def text(events):
    return "".join(event.text for event in events)


def own_events(ours, prompt=PROMPTS[0], **asked):
    return text_fakes.events(text_fakes.run(ours, text_fakes.send(ours, "generate", request(prompt, **asked))))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"max_tokens": None}, id="to the end of the context"),
        pytest.param({"stop": ("the",)}, id="a stop string"),
        pytest.param({"temperature": 1.0, "top_p": 0.0}, id="a top_p that leaves one token"),
        pytest.param({"temperature": 1.0, "top_k": 1}, id="a top_k that leaves one token"),
        pytest.param({"echo": True, "max_tokens": 0, "prompt_logprobs": 0}, id="the prompt alone"),
        pytest.param({"repetition_penalty": 1.3}, id="a penalty"),
        pytest.param({"logit_bias": {199: -100.0}}, id="a bias"),
    ],
)
def test_a_text_is_what_our_engine_gives(worker, ours, asked):
    found, wanted = events(worker, **asked), own_events(ours, **asked)

    assert text(found) == text(wanted)
    assert (found[-1].finish_reason, found[-1].stop_reason) == (wanted[-1].finish_reason, wanted[-1].stop_reason)
    assert found[-1].usage == wanted[-1].usage


def test_many_at_once_stream_what_each_gives_alone(worker, ours):
    asked = [(prompt, {"max_tokens": 8 + 2 * at}) for at, prompt in enumerate(PROMPTS * 4)]

    crowd = streams(worker, [send(worker, "generate", request(prompt, **more)) for prompt, more in asked])

    assert [text(found) for found in crowd] == [text(own_events(ours, prompt, **more)) for prompt, more in asked]
    assert min(map(len, crowd)) > 3


def test_a_text_ends_at_the_models_end_token_and_at_those_that_are_named(worker, ours):
    whole = [token for event in own_events(ours) for token in event.token_ids]
    end = ours.tokenizer.eos_token_id

    ended = events(worker, logit_bias={end: 100.0})
    ignored = events(worker, logit_bias={end: 100.0}, ignore_eos=True, max_tokens=5)
    named = events(worker, stop_token_ids=(whole[6],))

    assert ended[-1].finish_reason == "stop" and ended[-1].usage.completion_tokens == 1
    assert ignored[-1].finish_reason == "length" and ignored[-1].usage.completion_tokens == 5
    assert named[-1].stop_reason == whole[6] and text(named) == ours.tokenizer.decode(whole[: whole.index(whole[6]) + 1])


def test_a_seed_gives_the_same_text_alone_and_in_a_crowd(worker):
    asked = {"temperature": 0.9, "top_p": 0.95, "top_k": 50}
    alone = [text(events(worker, seed=seed, **asked)) for seed in range(3)]

    ids = [send(worker, "generate", request(PROMPTS[0], seed=seed, **asked)) for seed in range(8)]
    crowd = [text(found) for found in streams(worker, ids)]

    assert crowd[:3] == alone
    assert len(set(crowd)) == 8


def test_log_probabilities_are_those_of_our_engine(worker, ours):
    asked = {"logprobs": 2, "prompt_logprobs": 1, "max_tokens": 6}
    found, wanted = events(worker, **asked), own_events(ours, **asked)

    for name in ("logprobs", "prompt_logprobs"):
        here, there = ([one for event in side for one in getattr(event, name) or []] for side in (found, wanted))
        assert [one.token for one in here] == [one.token for one in there] != []
        assert [one.logprob or 0 for one in here] == pytest.approx([one.logprob or 0 for one in there], abs=1e-3)
        assert [[id for id, _, _ in one.top] for one in here] == [[id for id, _, _ in one.top] for one in there]


def test_scores_are_those_of_our_engine(worker, ours):
    wanted = ScoreRequest(prefix=PROMPTS[0], suffixes=[" not", " in the public domain"])
    send(worker, "score", wanted)

    found = msgspec.msgpack.decode(worker.peer.answer().body, type=ScoreAnswer)

    own = text_fakes.run(ours, text_fakes.send(ours, "score", wanted))
    expected = msgspec.msgpack.decode(own.body, type=ScoreAnswer)
    assert found.scores == pytest.approx(expected.scores, abs=1e-3) and found.token_counts == expected.token_counts


def test_an_answer_is_held_to_a_schema(worker):
    schema = {
        "type": "object",
        "properties": {"open": {"type": "boolean"}},
        "required": ["open"],
        "additionalProperties": False,
    }

    found = events(worker, grammar=f"json_schema:{json.dumps(schema)}", temperature=1.0, seed=4)

    assert json.loads(text(found))["open"] in (True, False) and found[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"grammar": 'json_schema:{"type": "nonsense"}'}, id="a schema that is none"),
        pytest.param({"logit_bias": {9999: 1.0}}, id="a token that is none"),
        pytest.param({"prompt": "x" * 5000}, id="a prompt that is too long"),
    ],
)
def test_what_cannot_be_done_is_refused(worker, asked):
    send(worker, "generate", request(**{"prompt": "The", **asked}))

    answer = worker.peer.answer()
    assert answer.status == 400 and answer.head.error == "InvalidRequest"


def test_a_kept_prefix_is_shared_under_its_salt_only(worker):
    prompt = PROMPTS[0] * 36

    cached = [events(worker, prompt, salt=salt)[-1].usage.cached_tokens for salt in ("ours", "ours", "theirs", "")]

    assert cached[0] == cached[2] == cached[3] == 0 < cached[1]


def test_who_leaves_is_not_answered_and_is_counted(worker):
    left = [send(worker, "generate", request(PROMPTS[1], max_tokens=None, ignore_eos=True)) for _ in range(4)]
    while worker.peer.frame().kind != Kind.CHUNK:
        pass

    for id in left:
        worker.peer.cancel(id)
    goodbyes = []
    while len(goodbyes) < len(left):
        if (frame := worker.peer.frame()).kind in (Kind.RESPONSE, Kind.END):
            goodbyes.append(frame.id)

    aborted, running = 0, None
    while aborted < len(left) or running:
        for metric in worker.metric_frame():
            aborted += metric.value if metric.name == "LlmAbortedRequests" else 0
            running = metric.value if metric.name == "LlmRequestsRunning" else running
    assert sorted(goodbyes) == left and aborted == len(left)
    assert text(events(worker, max_tokens=3))
