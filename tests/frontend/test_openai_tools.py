import json

import pydantic
import pytest
from llguidance import LLTokenizer
from openai import pydantic_function_tool

from flambeau.frontend.openai_body import Invalid
from flambeau.frontend.openai_tools import MAX_CALLS, Listener, Tools, calls_in, grammar_of, tools_of
from flambeau.handlers.engine.grammar import Grammars
from flambeau.handlers.generation import InvalidRequest

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


class Place(pydantic.BaseModel):
    city: str


class Trip(pydantic.BaseModel):
    start: Place
    stops: list[Place]


class Node(pydantic.BaseModel):
    place: Place
    children: list["Node"]


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TRIP, NODE = pydantic_function_tool(Trip), pydantic_function_tool(Node)
OLD = tool(  # draft 7's word, and a property whose name is a keyword's
    "Old",
    {
        "definitions": {"P": {"type": "object", "properties": {"$ref": {"type": "string"}}, "required": ["$ref"]}},
        "type": "object",
        "properties": {"p": {"$ref": "#/definitions/P"}, "default": {"$ref": "#/definitions/P"}},
        "required": ["p", "default"],
    },
)
A_TRIP = {"name": "Trip", "arguments": {"start": {"city": "Rome"}, "stops": [{"city": "Bari"}]}}
A_NODE = {"name": "Node", "arguments": {"place": {"city": "A"}, "children": [{"place": {"city": "B"}, "children": []}]}}
AN_OLD = {"name": "Old", "arguments": {"p": {"$ref": "x"}, "default": {"$ref": "y"}}}
WRONG = {"name": "Trip", "arguments": {"start": {"town": "Rome"}, "stops": []}}


def accepts(grammar, document):
    """Whether an answer may be this document, by the library which holds models to grammars."""
    tokenizer = LLTokenizer("byte")
    matcher = Grammars(tokenizer).matcher(grammar)._inner
    tokens = tokenizer.tokenize_str(json.dumps(document, separators=(",", ":")))
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("choice", "good", "bad"),
    [
        pytest.param(
            "required",
            [A_TRIP, A_NODE, AN_OLD, [A_TRIP], [A_NODE, A_TRIP, AN_OLD]],
            [WRONG, [], [A_TRIP, WRONG], [A_TRIP] * (MAX_CALLS + 1)],
            id="required",
        ),
        pytest.param(
            {"type": "function", "function": {"name": "Node"}}, [A_NODE], [A_TRIP, [A_NODE]], id="a named one with itself inside"
        ),
        pytest.param({"type": "function", "function": {"name": "Trip"}}, [A_TRIP], [WRONG, A_NODE], id="a named one"),
    ],
)  # fmt: skip
def test_calls_are_held_to_nested_types(choice, good, bad):
    grammar = tools_of({"tools": [TRIP, NODE, OLD], "tool_choice": choice}).grammar()

    assert [accepts(grammar, document) for document in good] == [True] * len(good)
    assert [accepts(grammar, document) for document in bad] == [False] * len(bad)


def test_one_call_is_one_call_where_several_are_not_wanted():
    tools = tools_of({"tools": [TRIP], "tool_choice": "required", "parallel_tool_calls": False})
    several = tools_of({"tools": [TRIP], "tool_choice": "auto"})
    text = f"<tool_call>{json.dumps(A_TRIP)}</tool_call>" * 2

    assert accepts(tools.grammar(), A_TRIP) and not accepts(tools.grammar(), [A_TRIP])
    assert [len(calls_in(given, text)[1]) for given in (tools, several)] == [1, 2]


def test_a_tools_bad_schema_is_told_as_the_tools():
    grammar = tools_of({"tools": [tool("f", {"type": "nonsense"})], "tool_choice": "required"}).grammar()

    with pytest.raises(InvalidRequest) as refused:
        Grammars(LLTokenizer("byte")).matcher(grammar)

    assert refused.value.param == "tools"
