"""Tokenizers as model folders bring them, and chat templates: what they say is what transformers makes of them."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flambeau.handlers.generation import InvalidRequest, Message
from flambeau.handlers.tokenizer import ByteTokenizer, HfTokenizer, render_chat

MESSAGES = [
    Message(role="system", content="Be brief & \u2013 exact."),
    Message(role="user", content="What's the weather in Rome?"),
    Message(
        role="assistant",
        tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "at": [1, 2]}'}}],
    ),
    Message(role="tool", content="sunny <b>\u2600</b>", tool_call_id="1"),
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
]
TEMPLATES = {
    "compact": "{{ tools | tojson(separators=(',', ':')) }}",
    "sorted": "{{ tools | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}",
    "plain": "{% for m in messages %}{{ m | tojson }}\n{% endfor %}",
    "by position": "{{ messages[0].content | tojson(true, 4) }}",
    "generation": (
        "{% for m in messages %}\n    {% if m.role == 'assistant' %}\n    {% generation %}\n"
        "<a>{{ m.tool_calls[0].function.arguments.city }}</a>\n    {% endgeneration %}\n"
        "    {% else %}\n<{{ m.role }}>{{ m.content }}\n    {% endif %}\n{% endfor %}"
    ),
    "variables of a generation": (
        "{% set seen = 1 %}{% generation %}{{ seen }}{% set seen = 2 %}{{ seen }}{% endgeneration %}{{ seen }}"
    ),
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
}


def inner(template=None):
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>", chat_template=template)


def as_transformers_has_it(message):
    """Templates are given the arguments of calls as objects."""
    turn = {"role": message.role, "content": message.content}
    for call in message.tool_calls or []:
        function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
        turn["tool_calls"] = [{**call, "function": function}]
    return turn | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_gives_what_transformers_makes_of_it(template):
    tokenizer = inner(template)
    wanted = tokenizer.apply_chat_template(
        [as_transformers_has_it(message) for message in MESSAGES], tools=TOOLS, tokenize=False, add_generation_prompt=True
    )

    assert render_chat(HfTokenizer(tokenizer), MESSAGES, TOOLS) == wanted


def test_a_tokenizer_may_have_another_template_for_conversations_with_tools():
    tokenizer = HfTokenizer(inner({"default": "plain", "tool_use": "with tools"}))

    assert [render_chat(tokenizer, MESSAGES, tools) for tools in (None, TOOLS)] == ["plain", "with tools"]


def test_what_a_template_cannot_do_is_refused():
    with pytest.raises(InvalidRequest, match="refused the messages"):
        render_chat(ByteTokenizer("{% generation %}"), MESSAGES)


OWN = """
from transformers import PreTrainedTokenizerFast


class Own(PreTrainedTokenizerFast):
    def encode(self, text, **options):
        return [2, 2, 2]
"""


def test_a_tokenizer_with_code_of_its_own_wants_trust(tmp_path):
    inner().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (tmp_path / "own.py").write_text(OWN)

    assert HfTokenizer.load(tmp_path, trust_remote_code=True).encode("b") == [2, 2, 2]
