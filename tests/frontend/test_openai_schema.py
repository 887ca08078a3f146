import json

import pytest

from flambeau.frontend import openai_answers as answers
from flambeau.frontend import openai_schema as schema
from flambeau.handlers.generation import GenerationEvent, TokenLogprob, Usage

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def chat(**given):
    return schema.chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | given).encode())


def completion(**given):
    return schema.completion(json.dumps({"model": "m", "prompt": "hi"} | given).encode())


@pytest.mark.parametrize(
    ("prompt", "prompts", "tokens"),
    [
        ("a", ["a"], [None]),
        (["a", "b"], ["a", "b"], [None, None]),
        ([1, 2], [None], [[1, 2]]),
        ([[1], [2, 3]], [None, None], [[1], [2, 3]]),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_a_prompt_comes_in_four_forms(prompt, prompts, tokens):
    requests = completion(prompt=prompt).requests

    assert [request.prompt for request in requests] == prompts
    assert [request.prompt_ids for request in requests] == tokens


def test_nulls_are_absent_and_unknown_keys_ignored():
    wanted = completion(logprobs=None, seed=None, stop=None, vendor={"x": 1})

    assert not wanted.logprobs
    assert wanted.requests[0].sampling.seed is None


def test_max_completion_tokens_is_max_tokens_and_a_chat_has_no_bound_by_itself():
    assert chat(max_completion_tokens=7).requests[0].sampling.max_tokens == 7
    assert chat().requests[0].sampling.max_tokens is None
    assert completion().requests[0].sampling.max_tokens == 16


def test_content_may_come_in_parts():
    message = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])

    assert message.requests[0].messages[0].content == "a\nb"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": 5}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}, "tools": [TOOL]}, "tool_choice"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"prompt_logprobs": 3, "stream": True}, "prompt_logprobs"),
        *[
            ({name: 10**30}, name)
            for name in (
                "max_tokens",
                "max_completion_tokens",
                "min_tokens",
                "n",
                "seed",
                "top_k",
                "temperature",
                "priority",
                "presence_penalty",
            )
        ],
        ({"logit_bias": {"1": 10**400}}, "logit_bias"),
        ({"logit_bias": {str(10**30): 1}}, "logit_bias"),
        ({"stop_token_ids": [10**30]}, "stop_token_ids"),
        ({"temperature": "x" * 1_000_000}, "temperature"),
    ],
)
def test_what_is_wrong_names_its_parameter(given, param):
    with pytest.raises(schema.Invalid) as caught:
        chat(**given)
    assert caught.value.param == param
    assert len(str(caught.value)) < 200


def test_a_required_tool_becomes_a_grammar_and_its_answer_a_call():
    wanted = chat(tools=[TOOL], tool_choice="required")
    assert wanted.requests[0].sampling.grammar.startswith("tools:")

    made = answers.choice(
        wanted, 0, GenerationEvent(text='{"name": "weather", "arguments": {"city": "Rome"}}', finish_reason="stop")
    )

    assert made["finish_reason"] == "tool_calls"
    function = made["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("weather", {"city": "Rome"})


def test_legacy_logprobs_give_the_chosen_token_the_very_float_of_its_top_entry():
    token = TokenLogprob(5, "a", -0.25, [(5, "a", -0.25), (6, "b", -1.5)])

    made = answers.completion_logprobs([TokenLogprob(1, "x", None), token], 2)

    assert made["token_logprobs"] == [None, -0.25]
    assert made["top_logprobs"] == [None, {"a": -0.25, "b": -1.5}]
    assert made["text_offset"] == [0, 1]


def test_usage_adds_up_over_prompts():
    made = answers.usage_of(answers.add(Usage(3, 4, 1), Usage(5, 6, 0)))

    assert (made["prompt_tokens"], made["completion_tokens"], made["total_tokens"]) == (8, 10, 18)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        pytest.param({"prompt": ["x"] * 100, "n": 100}, "n", id="more answers than anybody reads"),
        pytest.param({"suffix": "end"}, "suffix", id="a text with a gap"),
        pytest.param({"best_of": 3, "n": 2}, "best_of", id="candidates that nobody gets"),
        pytest.param({"prompt": [["a"]]}, "prompt", id="lists of texts"),
    ],
)
def test_completions_that_can_t_be_had_are_refused(given, param):
    with pytest.raises(schema.Invalid) as refused:
        completion(**given)

    assert refused.value.param == param
