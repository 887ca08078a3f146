import random

import pytest

from flambeau.handlers.engine.text_stream import TextStream
from flambeau.handlers.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()


def pieces(text, stop=(), include_stop=False):
    stream = TextStream(BYTES.decode, stop, include_stop)
    out = []
    for token in BYTES.encode(text):
        out.append(stream.push([token]))
        if out[-1].stopped_by:
            return out
    return [*out, stream.finish()]


@pytest.mark.parametrize("text", ["図書館 🦅 Où", "a", "", "🏳️‍🌈x"])
def test_characters_come_whole(text):
    shown = [piece.text for piece in pieces(text)]

    assert "".join(shown) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        pytest.param("one two three", ["two"], "one ", id="across tokens"),
        pytest.param("ababac", ["abac"], "ab", id="after a false start"),
        pytest.param("hello", ["hellish", "lox"], "hello", id="only its beginning, at the end"),
        pytest.param("a b c", ["c", "b"], "a ", id="the earliest of several"),
        pytest.param("xyz", ["", "y"], "x", id="an empty one means nothing"),
        pytest.param("日本語", ["本"], "日", id="of several bytes"),
    ],
)
def test_text_ends_before_the_stop_string(text, stop, shown):
    assert "".join(piece.text for piece in pieces(text, stop)) == shown


@pytest.mark.parametrize(
    ("rest", "shown"), [pytest.param(b"\x85xyz", "🦅xyz", id="goes on"), pytest.param(b"xyz", "xyz", id="does not")]
)
def test_a_prompt_may_end_in_half_a_character(rest, shown):
    def decode(ids):  # as byte fallback does: a mark for each byte of what is no character
        text = bytes(ids)
        return text.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}" * 3)

    stream = TextStream(decode, context=list("🦅".encode()[:3]))

    assert "".join([stream.push([token]).text for token in rest]) + stream.finish().text == shown


def test_nothing_of_a_stop_string_is_shown_early():
    stream = TextStream(BYTES.decode, ["STOP"])

    assert [stream.push([token]).text for token in b"xSTO"] == ["x", "", "", ""]
    assert stream.push(list(b"x")).text == "STOx"


def test_the_stop_string_is_shown_when_asked():
    assert "".join(piece.text for piece in pieces("one two", [" "], include_stop=True)) == "one "


def test_tokens_end_where_the_text_ends():
    shown = pieces("one two three", ["two"])

    assert BYTES.decode([token for piece in shown for token in piece.token_ids]) == "one "


def test_any_cut_of_tokens_gives_the_same_text():
    text, chance = "Größe 🦅 und Maß, ab abab abc", random.Random(1)
    ids = BYTES.encode(text)
    for _ in range(50):
        stream, shown, at = TextStream(BYTES.decode, ["ababc"]), "", 0
        while at < len(ids):
            step = chance.randint(1, 5)
            shown += stream.push(ids[at : at + step]).text
            at += step
        assert shown + stream.finish().text == text
