import json

import msgspec
import pytest
from text_fakes import events, run, send, start, text

from flambeau.handlers.chat import Chat
from flambeau.handlers.embedding import Embedding
from flambeau.handlers.engine.interface import Event
from flambeau.handlers.engine.mock import MockEngine
from flambeau.handlers.generation import (
    EmbedAnswer,
    EmbedRequest,
    GenerationRequest,
    Message,
    SamplingParams,
    ScoreAnswer,
    ScoreRequest,
    TokenizeAnswer,
    TokenizeRequest,
)
from flambeau.handlers.scoring import Scoring
from flambeau.handlers.text_generation import TextGeneration
from flambeau.handlers.text_jobs import fit

FAST = {"engine": "mock", "mock": {"steps_per_second": 0}}


@pytest.fixture
def model(tmp_path):
    return start(TextGeneration, tmp_path, **FAST)


def generate(model, prompt="hello", **sampling):
    return send(model, "generate", GenerationRequest(prompt=prompt, sampling=SamplingParams(**sampling)))


def helm(model, **body):
    return send(model, "predict", json.dumps({"prompt": "Alan Turing was a ", **body}).encode())


def test_digits_go_on_where_the_prompt_ends(tmp_path):
    model = start(TextGeneration, tmp_path, engine="mock", mock={"mode": "digits", "steps_per_second": 0})

    reply = run(model, generate(model, "abc", max_tokens=12))

    assert text(reply) == "234567890123"
    assert events(reply)[-1].finish_reason == "length"
    assert events(reply)[-1].usage.completion_tokens == 12


def test_every_answer_is_the_callers_own(tmp_path):
    model = start(TextGeneration, tmp_path, engine="mock", mock={"mode": "echo", "steps_per_second": 0})
    prompts = [f"<{number}>" for number in range(50)]

    replies = run(model, *[generate(model, prompt, max_tokens=9) for prompt in prompts])

    assert [text(reply).startswith(prompt) for reply, prompt in zip(replies, prompts, strict=True)] == [True] * 50


def test_seeded_text_is_the_same_alone_and_in_a_crowd(model):
    alone = text(run(model, generate(model, seed=7, max_tokens=20)))

    crowd = run(model, *[generate(model, seed=seed, max_tokens=20) for seed in (5, 6, 7, 8)])

    assert text(crowd[2]) == alone
    assert len({text(reply) for reply in crowd}) == 4


def test_a_stop_string_ends_the_work_and_none_of_it_is_shown(model):
    whole = text(run(model, generate(model, temperature=0, max_tokens=200)))
    stop = whole[20:24]

    reply = run(model, generate(model, temperature=0, max_tokens=200, stop=(stop,)))

    assert text(reply) == whole[: whole.find(stop)]
    assert events(reply)[-1].finish_reason == "stop" and events(reply)[-1].stop_reason == stop
    assert model.engine.stats().running == 0


def test_n_choices_come_under_their_own_index(model):
    request = GenerationRequest(prompt="x", sampling=SamplingParams(n=3, seed=1, max_tokens=5), stream=False)

    reply = run(model, send(model, "generate", request))

    assert [event.index for event in events(reply)] == [0, 1, 2]
    assert len({event.text for event in events(reply)}) == 3


def test_who_leaves_frees_the_row_at_once(model):
    reply = generate(model, max_tokens=1000)
    model.step()
    assert model.engine.stats().running == 1

    model.cancel(reply.id)

    assert model.engine.stats().running == 0 and not model.step()


def test_a_prompt_beyond_the_context_is_refused_and_named(tmp_path):
    model = start(TextGeneration, tmp_path, max_model_len=16, **FAST)

    reply = generate(model, "x" * 40)

    assert reply.status == 400 and reply.error == "InvalidRequest" and b"40" in reply.body and b"16" in reply.body


def test_a_prompt_beyond_the_context_loses_its_beginning_where_the_model_says_so(tmp_path):
    mock = {"mode": "echo", "steps_per_second": 0}
    model = start(TextGeneration, tmp_path, engine="mock", mock=mock, max_model_len=16, truncate_prompt=True)

    assert text(run(model, generate(model, "x" * 40 + "0123456789", max_tokens=6))) == "012345"


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "answered"),
    [
        pytest.param("0123456789", 16, "012345", id="a whole context of tokens asked for"),
        pytest.param("0123456789", 512, "012345", id="more tokens than the context has"),
        pytest.param("x" * 9 + "012345", 8, "x", id="a prompt that just fits stays whole"),
        pytest.param("x" * 40 + "01234567", 512, "01234567", id="a long prompt keeps half of the context"),
    ],
)
def test_a_prompt_loses_only_what_the_context_cannot_hold(tmp_path, prompt, max_tokens, answered):
    mock = {"mode": "echo", "steps_per_second": 0}
    model = start(TextGeneration, tmp_path, engine="mock", mock=mock, max_model_len=16)

    reply = run(model, helm(model, prompt=prompt, max_tokens=max_tokens))

    assert json.loads(reply.body)["choices"][0]["text"] == answered


def test_a_prompt_that_is_cut_keeps_its_first_token_if_all_begin_with_it():
    assert fit([7, *range(10, 30)], 8, 4, beginning=[7]) == [7, 27, 28, 29]
    assert fit([7, 8, 9], 3, 0, beginning=[7]) == [7, 8, 9]


def test_helm_gives_choices_and_the_time(model):
    reply = run(model, helm(model, max_tokens=24, temperature=0))

    answer = json.loads(reply.body)
    assert answer["choices"][0]["finish_reason"] == "length" and len(answer["choices"][0]["text"]) == 24
    assert answer["raw_compute_time"] >= 0 and "logprobs" not in answer["choices"][0]


def test_helm_gives_logprobs_when_asked(model):
    reply = run(model, helm(model, max_tokens=5, temperature=0, logprobs=3))

    logprobs = json.loads(reply.body)["choices"][0]["logprobs"]
    assert [len(logprobs[key]) for key in ("tokens", "token_logprobs", "top_logprobs")] == [5, 5, 5]
    assert len(logprobs["top_logprobs"][0]) == 3


def test_helm_scores_a_prompt_with_echo_and_no_tokens(model):
    reply = run(model, helm(model, max_tokens=0, echo=True, logprobs=1))

    choice = json.loads(reply.body)["choices"][0]
    assert choice["text"] == "Alan Turing was a"
    assert choice["logprobs"]["token_logprobs"][0] is None and choice["logprobs"]["token_logprobs"][1] < 0


@pytest.mark.parametrize("body", [{"prompt": ""}, {"max_tokens": 0}], ids=str)
def test_helm_with_nothing_to_do_answers_nothing(model, body):
    assert json.loads(helm(model, **body).body) == {
        "choices": [{"text": "", "index": 0, "finish_reason": "length"}],
        "raw_compute_time": 0.0,
    }


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="no prompt"),
        pytest.param(b'{"prompt": ["a"]}', id="a list for a prompt"),
        pytest.param(b'{"prompt": "a", "max_tokens": "many"}', id="a word for a number"),
        pytest.param(b'{"prompt": "a", "top_p": 2}', id="top_p beyond 1"),
        pytest.param(b'{"prompt": "a", "seed": %d}' % 10**30, id="a seed beyond 64 bits"),
        pytest.param(b'{"prompt": "a", "max_tokens": %d}' % 10**400, id="a number beyond all floats"),
    ],
)
def test_helm_refuses_what_it_cannot_read(model, body):
    assert send(model, "predict", body).status == 400


@pytest.mark.parametrize("name", ["seed", "top_k", "max_tokens", "logprobs", "prompt_logprobs"])
def test_a_chat_s_numbers_have_bounds(tmp_path, name):
    reply = send(start(Chat, tmp_path, **FAST), "predict", b'{"messages": [], "%s": %d}' % (name.encode(), 10**30))

    assert (reply.status, reply.headers) == (400, [("param", name)])


@pytest.mark.parametrize("kind", [TextGeneration, Chat, Embedding, Scoring])
def test_a_body_of_too_many_brackets_is_a_bad_request(tmp_path, kind):
    reply = send(start(kind, tmp_path, **FAST), "predict", b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}")

    assert reply.status == 400


def test_a_model_s_memory_is_not_filled_with_alternatives(model):
    assert helm(model, logprobs=101).status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 1.1), ("max_tokens", -5), ("n", 0), ("logprobs", -1)],
)
def test_numbers_that_mean_nothing_are_refused_by_name(model, name, value):
    reply = generate(model, **{name: value})

    assert reply.status == 400 and ("param", name) in reply.headers


def test_llama_2_prompts_are_dressed_once(tmp_path):
    section = {
        **FAST,
        "mock": {"mode": "echo", "steps_per_second": 0},
        "prompt_format": "llama-2-chat",
        "system": "Be brief.",
    }
    model = start(TextGeneration, tmp_path, **section)

    plain = json.loads(run(model, helm(model, prompt="Hi ", max_tokens=200, temperature=0)).body)
    dressed = json.loads(run(model, helm(model, prompt="[INST] Hi [/INST]", max_tokens=20, temperature=0)).body)

    assert plain["choices"][0]["text"].startswith("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]")
    assert dressed["choices"][0]["text"].startswith("[INST] Hi [/INST]")


def test_a_conversation_goes_through_the_chat_template(tmp_path):
    model = start(Chat, tmp_path, engine="mock", chat_template="{{ messages[0].content }}!", mock={"mode": "echo"})

    reply = run(model, send(model, "predict", b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}'))

    assert json.loads(reply.body)["message"] == {"role": "assistant", "content": "Hi!"}


def test_a_chat_template_runs_in_the_sandbox(tmp_path):
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    model = start(Chat, tmp_path, chat_template=escape, **FAST)

    reply = send(model, "generate", GenerationRequest(messages=[Message(role="user", content="x")]))

    assert reply.status == 400 and b"sandbox" in reply.body


def test_scores_come_for_each_suffix(tmp_path):
    model = start(Scoring, tmp_path, **FAST)

    reply = run(model, send(model, "score", ScoreRequest(prefix="ab", suffixes=["c", "cde", ""])))

    answer = msgspec.msgpack.decode(reply.body, type=ScoreAnswer)
    assert answer.token_counts == [1, 3, 0]
    assert answer.scores[1] < answer.scores[0] < 0 == answer.scores[2]


def test_embeddings_have_length_one_and_as_many_dimensions_as_asked(tmp_path):
    model = start(Embedding, tmp_path, **FAST)

    reply = run(model, send(model, "embed", EmbedRequest(inputs=["a", "b"], dimensions=4)))

    answer = msgspec.msgpack.decode(reply.body, type=EmbedAnswer)
    assert [len(vector) for vector in answer.embeddings] == [4, 4]
    assert sum(value**2 for value in answer.embeddings[0]) == pytest.approx(1)


@pytest.mark.parametrize(("body", "shape"), [(b"hi", 16), (b'"hi"', 16), (b'{"inputs": ["a", "b"]}', 2)])
def test_a_plain_post_embeds_texts_in_any_form(tmp_path, body, shape):
    model = start(Embedding, tmp_path, **FAST)

    assert len(json.loads(run(model, send(model, "predict", body)).body)) == shape


def test_tokenize_goes_both_ways(model):
    ids = msgspec.msgpack.decode(send(model, "tokenize", TokenizeRequest(prompt="Où")).body, type=TokenizeAnswer).ids
    back = msgspec.msgpack.decode(send(model, "tokenize", TokenizeRequest(ids=ids)).body, type=TokenizeAnswer)

    assert back.text == "Où" and back.max_model_len == 4096


def test_an_operation_the_handler_does_not_have_is_refused(tmp_path):
    model = start(Embedding, tmp_path, **FAST)

    assert generate(model).status == 400


def test_a_fault_comes_at_its_step(tmp_path):
    model = start(TextGeneration, tmp_path, engine="mock", mock={"raise_at_step": 3, "steps_per_second": 0})
    generate(model)
    model.step()
    model.step()

    with pytest.raises(RuntimeError, match="step 3"):
        model.step()


class Failing(MockEngine):
    """The third step raises, and its requests are told as the real engine tells them."""

    failure = "RuntimeError"

    def _deliver(self):
        if self._counts["steps"] < 3:
            return super()._deliver()
        rows, self._running = self._running, []
        for row in rows:
            row.sink(Event(row.index, finish="error", error=self.failure))


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("RuntimeError", (503, b"Prediction failed", "InternalServerException")),
        ("OutOfMemoryError", (507, b"Out of resources", "InternalServerException")),
    ],
)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(TextGeneration, b'{"prompt": "x"}', id="HELM"),
        pytest.param(Chat, b'{"messages": [{"role": "user", "content": "x"}]}', id="chat"),
    ],
)
def test_a_plain_post_whose_engine_fails_is_no_answer(tmp_path, kind, body, failure, told):
    model = start(kind, tmp_path, **FAST)
    model.engine = Failing(eos_token_id=256, vocab_size=300)
    model.engine.failure = failure

    reply = run(model, send(model, "predict", body))

    assert (reply.status, reply.body, reply.error) == told


def test_a_worker_that_ends_does_not_pass_half_a_text_for_a_whole_one(model):
    reply = helm(model, max_tokens=100)
    model.step()

    model.engine.drain()

    assert (reply.status, reply.body) == (503, b"Prediction failed")


def test_steps_take_the_time_of_the_profile(tmp_path):
    from flambeau.handlers.engine.mock import Timing

    timing = Timing(alpha=6, beta=0.5, gamma=10, delta=0.1)

    assert timing.seconds(rows=8, prefill_tokens=0) == pytest.approx(0.010)
    assert timing.seconds(rows=0, prefill_tokens=100) == pytest.approx(0.020)


@pytest.mark.parametrize(("section", "credit"), [({}, 64), ({"max_batch_rows": 8}, 16), ({"max_waiting": 0}, 32)], ids=str)
def test_a_worker_takes_as_many_requests_as_it_has_rows_and_some_that_wait(tmp_path, section, credit):
    assert start(TextGeneration, tmp_path, **FAST, **section).credit == credit
