import json

import pytest

from flambeau.frontend.openai_body import Invalid
from flambeau.frontend.openai_tools import Listener, Tools, calls_in, grammar_of

TOOLS = Tools([{"name": "weather"}, {"name": "time"}], "auto")


@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        pytest.param(
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>', "", ["weather"], id="Hermes"
        ),
        pytest.param(
            'Let me see.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call><tool_call>{"name": "time"}</tool_call>',
            "Let me see.",
            ["weather", "time"],
            id="two, after a word",
        ),
        pytest.param('[TOOL_CALLS][{"name": "time", "arguments": {}}]', "", ["time"], id="Mistral"),
        pytest.param('{"name": "weather", "parameters": {"city": "Rome"}}', "", ["weather"], id="Llama"),
        pytest.param('{"name": "other"}', '{"name": "other"}', [], id="JSON that is no call"),
        pytest.param("It is sunny.", "It is sunny.", [], id="text"),
    ],
)
def test_calls_are_found_however_a_template_teaches_them(text, said, names):
    rest, calls = calls_in(TOOLS, text)

    assert (rest, [call["function"]["name"] for call in calls]) == (said, names)
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


@pytest.mark.parametrize(
    ("pieces", "shown", "calls"),
    [
        pytest.param(["It ", "is ", "<b>sunny"], ["It ", "is ", "<b>sunny"], 0, id="text passes at once"),
        pytest.param(["Well. <to", "ol>"], ["Well. ", "<tool>"], 0, id="what only begins like a mark comes late"),
        pytest.param(
            ["Wait. <tool_", 'call>{"name": "time"}</tool_call>'], ["Wait. ", ""], 1, id="a call after a word is kept"
        ),
        pytest.param([" {", '"name": "time"}'], ["", ""], 1, id="bare JSON is kept"),
        pytest.param(["{", "x}"], ["", ""], 0, id="braces that are no call come at the end"),
    ],
)
def test_a_stream_shows_what_is_surely_no_call(pieces, shown, calls):
    listener = Listener(TOOLS)

    assert [listener.hear(piece) for piece in pieces] == shown
    rest, found = listener.end()
    assert len(found) == calls
    assert calls or "".join(shown) + rest == "".join(pieces)


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}}, 'json_schema:{"a": 1}'),
        ({"guided_json": {"type": "string"}}, 'json_schema:{"type": "string"}'),
        ({"guided_choice": ["a.b", "c"]}, r"regex:a\.b|c"),
        ({"structured_outputs": {"regex": "[a-z]+"}}, "regex:[a-z]+"),
        ({"structured_outputs": {"grammar": "start: /x/"}}, "lark:start: /x/"),
    ],
    ids=["nothing", "text", "object", "schema", "vLLM's json", "vLLM's choice", "regex", "grammar"],
)  # fmt: skip
def test_what_an_answer_is_held_to(given, grammar):
    assert grammar_of(given) == grammar


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": "json"},
        {"response_format": {"type": "json_schema"}},
        {"structured_outputs": {"choice": [1]}},
        {"structured_outputs": 1},
    ],
)
def test_what_an_answer_can_t_be_held_to_is_refused(given):
    with pytest.raises(Invalid):
        grammar_of(given)
