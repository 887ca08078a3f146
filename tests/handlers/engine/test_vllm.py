"""Our side of vLLM: what is asked of it, and what becomes of its answers. Its engine here is a small likeness; `real_vllm`
asks a real one.
"""

from types import SimpleNamespace

import pytest

from flambeau.handlers.engine.config import ConfigError, TextModelConfig
from flambeau.handlers.engine.vllm import Kinds, VllmEngine, load
from flambeau.handlers.generation import InvalidRequest, SamplingParams


class Likeness:
    """vLLM's LLMEngine as far as it is used: each step gives each request one more token, 10, 11, 12…"""

    model_config = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 100)

    def __init__(self):
        self.requests, self.aborted, self.salts = {}, [], {}

    def add_request(self, name, prompt, options, priority=0):
        self.salts[name] = prompt.get("cache_salt")
        self.requests[name] = (prompt["prompt_token_ids"], options, [])

    def abort_request(self, names):
        self.aborted += names
        for name in names:
            self.requests.pop(name, None)

    def step(self):
        outputs = []
        for name, (prompt, options, tokens) in list(self.requests.items()):
            tokens.append(10 + len(tokens))
            finish = "length" if len(tokens) == options["max_tokens"] else None
            if finish:
                del self.requests[name]
            values = [{token: SimpleNamespace(logprob=-0.5)} for token in tokens]
            of_prompt = [None, *({token: SimpleNamespace(logprob=-1.0)} for token in prompt[1:])]
            choices = [
                SimpleNamespace(
                    index=index,
                    token_ids=tuple(tokens),
                    logprobs=values if options["logprobs"] is not None else None,
                    finish_reason=finish,
                    stop_reason=None,
                )
                for index in range(options["n"])
            ]
            outputs.append(
                SimpleNamespace(
                    request_id=name,
                    outputs=choices,
                    num_cached_tokens=2,
                    prompt_token_ids=prompt,
                    prompt_logprobs=of_prompt if options["prompt_logprobs"] is not None else None,
                )
            )
        return outputs


@pytest.fixture
def engine():
    return VllmEngine(Likeness(), Kinds(dict, dict, (ValueError,)), max_rows=4)


def test_tokens_come_once_and_end(engine):
    events = []
    engine.add_request([1, 2, 3], SamplingParams(max_tokens=3, logprobs=0), events.append)

    while engine.step():
        pass

    assert [event.token_ids for event in events] == [[10], [11], [12]]
    assert [event.finish for event in events] == [None, None, "length"]
    assert events[0].cached_tokens == 2 and events[1].logprobs[0].logprob == -0.5
    assert engine.stats().finished == 1 and engine.stats().running == 0


def test_a_score_tells_the_suffix_and_no_token(engine):
    events = []
    engine.add_request([1, 2, 3, 4], SamplingParams(max_tokens=0), events.append, kind="score", score_from=2)

    engine.step()

    assert [logprob.token_id for logprob in events[0].prompt_logprobs] == [3, 4] and events[0].token_ids == []


def test_who_leaves_is_aborted(engine):
    handle = engine.add_request([1], SamplingParams(max_tokens=30), [].append)
    engine.step()

    engine.abort(handle)

    assert engine._inner.aborted == [str(handle)] and not engine.step()


def test_a_choice_may_end_before_the_others(engine):
    events = []
    handle = engine.add_request([1], SamplingParams(max_tokens=3, n=2), events.append)
    engine.step()

    engine.complete(handle, 0)
    while engine.step():
        pass

    assert [event.index for event in events] == [0, 1, 1, 1]


@pytest.mark.parametrize("greedy", [{"temperature": 0, "top_p": 0.5}, {"top_p": 0}, {"top_k": 1}], ids=str)
def test_what_leaves_one_token_is_asked_for_as_greedy(engine, greedy):
    engine.add_request([1], SamplingParams(**greedy), [].append)

    _, options, _ = engine._inner.requests["1"]
    assert (options["temperature"], options["top_p"], options["top_k"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("grammar", "asked"),
    [
        ("json_object", {"json_object": True, "disable_any_whitespace": True}),
        ('json_schema:{"type": "object"}', {"json": '{"type": "object"}', "disable_any_whitespace": True}),
        ('tools:{"type": "object"}', {"json": '{"type": "object"}', "disable_any_whitespace": True}),
        ("regex:a|b", {"regex": "a|b"}),
        ("lark:start: A", {"grammar": "start: A"}),
    ],
)
def test_grammars_are_put_in_its_words(engine, grammar, asked):
    engine.add_request([1], SamplingParams(grammar=grammar), [].append)

    assert engine._inner.requests["1"][1]["structured_outputs"] == asked


def test_a_prompt_goes_with_its_salt(engine):
    engine.add_request([1], SamplingParams(), [].append, salt="ours")
    engine.add_request([1], SamplingParams(), [].append)

    assert engine._inner.salts == {"1": "ours", "2": None}


def test_what_it_cannot_do_is_refused(engine):
    with pytest.raises(InvalidRequest, match="100 tokens"):
        engine.add_request([1] * 100, SamplingParams(), [].append)
    with pytest.raises(InvalidRequest, match="does not embed"):
        engine.add_request([1], SamplingParams(), [].append, kind="embed")


def test_without_vllm_the_model_is_refused_and_the_extra_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)

    with pytest.raises(ConfigError, match="extra `vllm`"):
        load(TextModelConfig(), "x")
