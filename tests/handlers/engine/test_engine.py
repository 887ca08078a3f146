"""What the engine promises: generate()'s tokens, the same alone and in a crowd, and nothing left behind."""

import random
from functools import cache

import pytest
import tiny_models
import torch

from flambeau.handlers.engine import runner as runner_module
from flambeau.handlers.engine.engine import Engine, Limits
from flambeau.handlers.engine.fused import FusedRunner
from flambeau.handlers.engine.kv_cache import BLOCK
from flambeau.handlers.engine.runner import HfRunner
from flambeau.handlers.engine.sequential import SequentialRunner
from flambeau.handlers.generation import InvalidRequest, SamplingParams

LENGTH = 256
RUNNERS = {
    "fused": lambda model, slots: FusedRunner(model, slots, LENGTH),
    "fixed": lambda model, slots: FusedRunner(model, slots, LENGTH, tiny_models.unrecorded),
    "hf": lambda model, slots: HfRunner(model, slots, LENGTH),
    "sequential": lambda model, slots: SequentialRunner(model, LENGTH),
}


def make(name="llama", runner="fused", slots=12, **limits):
    given = {"max_rows": 8, "max_tokens": 24, **limits}
    prefix_cache = given.pop("prefix_cache", True)
    options = {key: given.pop(key) for key in ("eos_token_ids", "pooling") if key in given}
    made = RUNNERS[runner](tiny_models.model(name), slots)
    return Engine(made, Limits(**given), slots=slots, prefix_cache=prefix_cache, **options)


class Answer:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        assert not event.error, event.error
        self.events.append(event)

    def tokens(self, index=0):
        return [token for event in self.events if event.index == index for token in event.token_ids]

    @property
    def finish(self):
        return self.events[-1].finish if self.events else None


def ask(engine, ids, kind="generate", priority=0, score_from=1, salt="", **params):
    answer = Answer()
    params = SamplingParams(**{"temperature": 0, **params})
    answer.handle = engine.add_request(ids, params, answer, kind=kind, priority=priority, score_from=score_from, salt=salt)
    return answer


def run(engine):
    for _ in range(5000):
        if not engine.step():
            return
    raise AssertionError("the engine does not end")


def requests(count, seed=3):
    chance = random.Random(seed)
    return [([chance.randrange(200) for _ in range(chance.randint(1, 60))], chance.randint(1, 30)) for _ in range(count)]


def assert_nothing_is_left(engine):
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)
    assert not engine.step()


SHAPES = ["llama", "llama-tied", "qwen2", "qwen3", "mistral"]


@pytest.mark.parametrize(
    ("name", "runner"), [*((name, "fused") for name in SHAPES), ("qwen3", "fixed"), ("llama", "hf"), ("gpt2", "hf")]
)
def test_greedy_text_is_what_generate_gives(name, runner):
    engine = make(name, runner)

    answers = [ask(engine, ids, max_tokens=tokens) for ids, tokens in requests(14)]
    run(engine)

    assert [answer.tokens() for answer in answers] == generated(name)
    assert_nothing_is_left(engine)


def test_a_model_that_is_spread_over_devices_keeps_keys_and_values_beside_each_layer(monkeypatch):
    # Two names of the same device: what is made for one is not found under the other.
    monkeypatch.setattr(
        runner_module, "devices_of_layers", lambda model: {0: torch.device("cpu"), 1: torch.device("cpu:0")}
    )
    engine = make("llama", "hf")

    answers = [ask(engine, ids, max_tokens=tokens) for ids, tokens in requests(14)]
    run(engine)

    assert [attention.cache.shape.layers for attention in engine.runner._attentions] == [1, 1]
    assert [answer.tokens() for answer in answers] == generated("llama")


@cache
def generated(name):
    model = tiny_models.model(name)
    return [tiny_models.generate(model, *request) for request in requests(14)]


def test_models_that_only_run_one_by_one_give_what_generate_gives():
    reference, engine = tiny_models.model("mistral-window"), make("mistral-window", "sequential")
    wanted = requests(8)

    answers = [ask(engine, ids, max_tokens=tokens) for ids, tokens in wanted]
    run(engine)

    assert [answer.tokens() for answer in answers] == [tiny_models.generate(reference, *request) for request in wanted]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "presence_penalty": 0.3},
    ],
    ids=str,
)
def test_seeded_text_is_the_same_alone_and_in_a_crowd(params):
    alone, crowded = make(), make(max_rows=12)
    asked = [(ids, {**params, "seed": seed, "max_tokens": tokens}) for seed, (ids, tokens) in enumerate(requests(6))]
    single = []
    for ids, options in asked:
        single.append(ask(alone, ids, **options))
        run(alone)

    crowd = [ask(crowded, ids, **options) for ids, options in asked]
    for ids, tokens in requests(26, seed=9):
        ask(crowded, ids, max_tokens=tokens, temperature=1.0)
    run(crowded)

    assert [answer.tokens() for answer in crowd] == [answer.tokens() for answer in single]


def test_memory_that_runs_short_preempts_and_changes_no_text():
    roomy, tight = make(), make(kv_tokens=LENGTH)
    wanted = [(ids, 40) for ids, _ in requests(12)]

    answers = [[ask(engine, ids, max_tokens=tokens) for ids, tokens in wanted] for engine in (roomy, tight)]
    run(roomy)
    run(tight)

    assert [answer.tokens() for answer in answers[1]] == [answer.tokens() for answer in answers[0]]
    assert tight.stats().preempted > 0
    assert_nothing_is_left(tight)


@pytest.mark.parametrize("runner", ["fused", "hf"])
def test_kept_prefixes_take_no_more_memory_than_all_rows_may(runner):
    engine = make("llama", runner, slots=10, max_rows=3, kv_tokens=4 * BLOCK)
    cache = engine.runner.cache if runner == "fused" else engine.runner._attentions[0].cache
    wanted, chance, most = [], random.Random(4), 0
    for _ in range(25):
        wanted.append(([chance.randrange(200) for _ in range(chance.randint(1, 200))], 20))

    answers = [ask(engine, ids, max_tokens=tokens) for ids, tokens in wanted]
    while engine.step():
        taken = sum(bool(tensor.any()) for block in cache.keys[1] for tensor in block[:10])
        most = max(most, taken - engine.stats().running)  # a row's last block is not full

    model = tiny_models.model("llama")
    assert [answer.tokens() for answer in answers] == [tiny_models.generate(model, *request) for request in wanted]
    assert most <= 4
    assert_nothing_is_left(engine)


def test_memory_that_is_given_back_leaves_the_latest_prefixes():
    engine = make(max_rows=1, kv_tokens=2 * BLOCK)
    old, new = [1] * 100, [2] * 100
    for prompt in (old, new, [3] * 100):
        ask(engine, prompt, max_tokens=2)
        run(engine)

    again = [ask(engine, prompt, max_tokens=2) for prompt in (new, old)]
    run(engine)

    assert [answer.events[0].cached_tokens for answer in again] == [99, 0]


def test_a_kept_prefix_is_not_read_again():
    engine = make()
    prompt = list(range(60))
    first = ask(engine, prompt, max_tokens=5)
    run(engine)

    second = ask(engine, [*prompt, 99, 98], max_tokens=5)
    again = ask(engine, prompt, max_tokens=5)
    run(engine)

    assert second.events[0].cached_tokens == 60 and again.events[0].cached_tokens == 59
    assert again.tokens() == first.tokens()
    assert second.tokens() == tiny_models.generate(tiny_models.model("llama"), [*prompt, 99, 98], 5)


@pytest.mark.parametrize("kind", ["generate", "score", "embed"])
def test_a_prefix_kept_under_one_salt_is_found_under_no_other(kind):
    engine, prompt = make(), list(range(60))
    ask(engine, prompt, kind, salt="ours", max_tokens=4)
    run(engine)

    others = [ask(engine, prompt, salt=salt, max_tokens=4) for salt in ("theirs", "")]
    run(engine)
    assert engine.stats().cached_tokens == 0

    ask(engine, prompt, salt="ours", max_tokens=4)
    run(engine)
    assert engine.stats().cached_tokens == 59
    assert others[0].tokens() == others[1].tokens()


def test_choices_share_the_reading_of_their_prompt():
    engine = make()

    answer = ask(engine, list(range(50)), n=3, seed=1, temperature=1.0, max_tokens=6)
    run(engine)

    assert engine.stats().cached_tokens == 2 * 49
    assert len({tuple(answer.tokens(index)) for index in range(3)}) == 3
    assert len(answer.tokens(2)) == 6


def test_who_leaves_frees_everything_within_a_step():
    engine = make()
    answers = [ask(engine, ids, max_tokens=50) for ids, _ in requests(30)]
    for _ in range(6):
        engine.step()

    for answer in answers[::2]:
        engine.abort(answer.handle)
        seen = len(answer.events)
        engine.step()
        assert len(answer.events) == seen
    run(engine)

    assert all(answer.finish == "length" for answer in answers[1::2])
    assert engine.stats().aborted == 15
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_and_goes_everybody_gets_what_generate_gives(seed):
    chance, model = random.Random(seed), tiny_models.model("llama")
    limits = {
        "max_rows": chance.randint(1, 8),
        "max_tokens": chance.choice([20, 64, 300]),
        "kv_tokens": chance.choice([0, 300]),
    }
    engine, shared, asked = make(slots=8, **limits), list(range(200)) + list(range(56)), []

    for _ in range(40):
        length = chance.choice([1, chance.randint(1, 60), BLOCK, LENGTH - 1])
        ids = shared[:length] if chance.random() < 0.5 else [chance.randrange(200) for _ in range(length)]
        params = {
            "n": chance.randint(1, 3),
            "max_tokens": chance.choice([0, 1, 7]),
            "prompt_logprobs": chance.choice([None, 0]),
        }
        asked.append((ids, params, ask(engine, ids, priority=chance.randint(0, 1), **params)))
        ask(engine, shared, kind=chance.choice(["score", "embed"]), max_tokens=0)  # as long as the context
        if chance.random() < 0.2:
            engine.abort(asked.pop()[2].handle)
        assert engine.step()
    while engine.stats().running or engine.stats().waiting:
        assert engine.step() or not engine.stats().waiting  # never asleep on requests
    assert_nothing_is_left(engine)

    for ids, params, answer in asked:
        wanted = tiny_models.generate(model, ids, params["max_tokens"]) if params["max_tokens"] else []
        wanted = wanted[: LENGTH - len(ids)]
        assert [answer.tokens(index) for index in range(params["n"])] == [wanted] * params["n"]
        assert sum(event.finish == "length" for event in answer.events) == params["n"]
        told = [len(event.prompt_logprobs) for event in answer.events if event.prompt_logprobs is not None]
        assert told == ([] if params["prompt_logprobs"] is None else [len(ids)] * params["n"])


def test_urgent_requests_come_first_and_take_a_row_if_they_must():
    engine = make(max_rows=2)
    slow = [ask(engine, [1, 2, 3], priority=5, max_tokens=30) for _ in range(4)]
    engine.step()

    urgent = ask(engine, [4, 5], priority=0, max_tokens=2)
    for _ in range(3):
        engine.step()

    assert urgent.finish == "length" and engine.stats().preempted == 1
    run(engine)
    assert [len(answer.tokens()) for answer in slow] == [30] * 4
    assert len({tuple(answer.tokens()) for answer in slow}) == 1


def test_an_urgent_request_takes_memory_if_it_must():
    engine = make(max_rows=4, kv_tokens=LENGTH)
    slow = [ask(engine, [token] * 100, priority=5, max_tokens=20) for token in (1, 2)]
    for _ in range(12):
        engine.step()

    urgent = ask(engine, [3] * 120, priority=0, max_tokens=2)
    for _ in range(8):
        engine.step()

    assert urgent.finish == "length" and not any(answer.finish for answer in slow)
    run(engine)
    assert [len(answer.tokens()) for answer in slow] == [20, 20]


def test_an_urgent_request_preempts_nobody_if_that_is_not_enough():
    engine = make(max_rows=4, kv_tokens=LENGTH)
    ask(engine, [1] * 150, max_tokens=10)
    ask(engine, [2] * 40, priority=5, max_tokens=10)
    for _ in range(11):
        engine.step()

    ask(engine, [3] * 120, max_tokens=2)
    engine.step()

    assert engine.stats().preempted == 0
    run(engine)


def test_an_urgent_request_takes_the_row_of_a_prompt_that_is_being_read():
    engine = make(max_rows=1, max_tokens=8)
    slow = ask(engine, [1] * 50, priority=5, max_tokens=3)
    engine.step()

    urgent = ask(engine, [4, 5], priority=0, max_tokens=2)

    assert engine.step() and len(urgent.tokens()) == 1
    run(engine)
    assert (urgent.finish, slow.finish) == ("length", "length")


def test_a_text_ends_at_the_end_token_unless_it_is_to_be_ignored():
    tokens = tiny_models.generate(tiny_models.model("llama"), [5, 6, 7], 20)
    end = tokens[4]
    engine = make(eos_token_ids=[end])

    stopped, ignored = (ask(engine, [5, 6, 7], max_tokens=20, ignore_eos=ignore) for ignore in (False, True))
    forced = ask(engine, [5, 6, 7], max_tokens=20, min_tokens=12)
    by_id = ask(engine, [5, 6, 7], max_tokens=20, stop_token_ids=(tokens[2],))
    run(engine)

    assert stopped.tokens() == tokens[: tokens.index(end) + 1] and stopped.finish == "stop"
    assert ignored.tokens() == tokens
    assert len(forced.tokens()) >= 12 and end not in forced.tokens()[:12]
    assert by_id.finish == "stop" and by_id.events[-1].stop_reason == tokens[2]


def test_a_text_ends_with_the_context():
    engine = make()

    answer = ask(engine, [1] * (LENGTH - 5), max_tokens=None)
    run(engine)

    assert len(answer.tokens()) == 5 and answer.finish == "length"


@torch.inference_mode()
def test_logprobs_are_those_of_the_raw_logits():
    engine, prompt = make(), [9, 8, 7, 6]

    answer = ask(engine, prompt, max_tokens=4, logprobs=3, prompt_logprobs=2, repetition_penalty=1.5)
    run(engine)

    whole = torch.tensor([prompt + answer.tokens()])
    truth = torch.log_softmax(tiny_models.model("llama")(whole).logits[0].float(), -1)
    own = [logprob for event in answer.events for logprob in event.logprobs]
    assert [logprob.token_id for logprob in own] == answer.tokens()
    for at, logprob in enumerate(own, start=3):
        assert logprob.logprob == pytest.approx(float(truth[at, logprob.token_id]), abs=1e-4)
        assert [token for token, _ in logprob.top] == truth[at].topk(3).indices.tolist()
    of_prompt = answer.events[0].prompt_logprobs
    assert of_prompt[0].logprob is None and [logprob.token_id for logprob in of_prompt] == prompt
    assert of_prompt[2].logprob == pytest.approx(float(truth[1, prompt[2]]), abs=1e-4)


@pytest.mark.parametrize("tokens", [0, 3])
def test_every_choice_knows_the_logprobs_of_the_prompt(tokens):
    engine = make(max_tokens=7, max_rows=2)

    answer = ask(engine, list(range(20)), n=3, max_tokens=tokens, prompt_logprobs=1)
    run(engine)

    firsts = [next(event for event in answer.events if event.index == index) for index in range(3)]
    assert [len(first.prompt_logprobs) for first in firsts] == [20] * 3
    assert firsts[0].prompt_logprobs == firsts[2].prompt_logprobs


@torch.inference_mode()
def test_scores_are_the_models_own_also_in_chunks_and_after_a_shared_prefix():
    engine = make(max_tokens=7)
    prefix, suffixes = list(range(20)), [[50, 60], [70, 80, 90]]
    model = tiny_models.model("llama")

    answers = [ask(engine, prefix + suffix, kind="score", score_from=20, max_tokens=0) for suffix in suffixes]
    run(engine)

    for answer, suffix in zip(answers, suffixes, strict=True):
        truth = torch.log_softmax(model(torch.tensor([prefix + suffix])).logits[0].float(), -1)
        wanted = [float(truth[19 + at, token]) for at, token in enumerate(suffix)]
        assert [logprob.logprob for logprob in answer.events[0].prompt_logprobs] == pytest.approx(wanted, abs=1e-4)
        assert answer.finish == "stop"


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.inference_mode()
def test_a_decoder_embeds_by_its_last_hidden_states(pooling):
    engine, ids = make(max_tokens=7, pooling=pooling), list(range(30))
    states = tiny_models.model("llama").model(torch.tensor([ids])).last_hidden_state[0]
    wanted = states.mean(0) if pooling == "mean" else states[-1]

    answer = ask(engine, ids, kind="embed", max_tokens=0)
    ask(engine, [3, 4], max_tokens=8)
    run(engine)

    assert answer.events[0].embedding == pytest.approx((wanted / wanted.norm()).tolist(), abs=1e-4)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_an_embedding_that_was_preempted_is_the_same(pooling):
    engine, ids = make(max_tokens=7, max_rows=1, pooling=pooling), list(range(30))
    alone = ask(engine, ids, kind="embed", max_tokens=0)
    run(engine)

    answer = ask(engine, ids, kind="embed", priority=1, max_tokens=0)
    engine.step()
    ask(engine, [3, 4], max_tokens=2)
    run(engine)

    assert engine.stats().preempted == 1
    assert answer.events[0].embedding == pytest.approx(alone.events[0].embedding, abs=1e-4)


def test_biases_decide():
    engine = make()

    wanted = ask(engine, [1, 2], max_tokens=3, logit_bias={42: 1000.0})
    run(engine)

    assert wanted.tokens() == [42, 42, 42]


def test_penalties_keep_a_text_from_repeating_itself():
    engine = make()

    answer = ask(engine, [1, 2], max_tokens=30, frequency_penalty=1000.0)
    run(engine)

    assert len(set(answer.tokens())) == 30


@pytest.mark.parametrize(
    ("ids", "params", "complaint"),
    [
        pytest.param([], {}, "empty", id="no prompt"),
        pytest.param([1] * 300, {}, "300 tokens, the model takes 256", id="a prompt beyond the context"),
        pytest.param([1], {"logit_bias": {999: 1.0}}, "between 0 and 199", id="a token that is none"),
        pytest.param([1], {"grammar": "json_object"}, "grammar", id="a grammar without its library"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(ids, params, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        ask(make(), ids, **params)


def test_a_step_that_fails_is_told_to_who_was_in_it_and_the_next_works():
    engine = make()
    seen = []
    engine.add_request([1, 2], SamplingParams(max_tokens=3), seen.append)
    run_model, engine.runner.run = engine.runner.run, None

    engine.step()
    engine.runner.run = run_model
    answer = ask(engine, [1, 2, 3], max_tokens=3)
    run(engine)

    assert [event.finish for event in seen] == ["error"] and answer.finish == "length"
    assert_nothing_is_left(engine)


def test_drain_ends_what_runs_and_what_waits():
    engine = make(max_rows=1)
    answers = [ask(engine, [1, 2], max_tokens=50) for _ in range(3)]
    engine.step()

    engine.drain()

    assert [answer.finish for answer in answers] == ["abort"] * 3
    assert_nothing_is_left(engine)
