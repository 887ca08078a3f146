import json

import pytest
from text_fakes import run, send, start

from flambeau.handlers.falcon import Refused, one_turn, read
from flambeau.handlers.text_stream import TextStream


def body(**given):
    return json.dumps({"text": "hello"} | given).encode()


def test_a_minimal_body_takes_the_original_s_defaults():
    asked = read(body(), "application/json; charset=utf-8")
    request = asked.generation

    assert request.prompt == "hello"
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (128, 1.0, 10, 0.9)
    assert not asked.before


def test_numbers_as_text_nulls_and_unknown_keys_are_taken():
    given = body(top_k="40", temperature="1", max_tokens=2.0, stop_sequence=None, return_prompt=None, colour="blue")

    request = read(given, "application/json").generation

    assert (request.sampling.top_k, request.sampling.max_tokens, request.sampling.stop) == (40, 2, ())


def test_a_chat_is_dressed_as_one_turn_and_end_marks_inside_a_prompt_are_dropped():
    asked = read(body(text="hi<|endoftext|>", return_prompt=True), "application/json", one_turn)

    assert asked.generation.prompt == asked.before == "User: hi\nAI: "


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        pytest.param({"top_k": 1.9}, "top_k", id="a fraction for a whole number"),
        pytest.param({"max_tokens": True}, "max_tokens", id="a boolean for a number"),
        pytest.param({"temperature": None}, "temperature", id="null for a number"),
        pytest.param({"temperature": 0}, "temperature=0 is not between 0.01 and 100", id="below the bound"),
        pytest.param({"max_tokens": 2049}, "max_tokens=2049 is not between 1 and 2048", id="above the bound"),
        pytest.param({"text": ""}, "'text' is required", id="no text"),
        pytest.param({"seed": 1 << 63}, "seed=9223372036854775808 is not between", id="a seed beyond 64 bits"),
        pytest.param({"top_k": 10**400}, "top_k", id="a number beyond all floats"),
        pytest.param({"text": 1}, "text", id="a number for a text"),
        pytest.param({"text": "", "top_k": "x"}, "top_k", id="a wrong type wins over a missing text"),
        pytest.param({"text": "", "top_k": 0}, "'text' is required", id="a missing text wins over a bound"),
    ],
)
def test_what_is_wrong_is_named(given, complaint):
    with pytest.raises(Refused, match=complaint):
        read(body(**given), "application/json")


@pytest.mark.parametrize("raw", [b"{", b"", b"[1]", b"null", b'{"text": "x", "temperature": NaN}'])
def test_a_body_that_is_no_request_is_refused(raw):
    with pytest.raises(Refused):
        read(raw, "application/json")


def test_another_content_type_is_refused():
    with pytest.raises(Refused, match="Request was not JSON"):
        read(body(), "text/plain")


JSON = (b"Content-Type", b"application/json")


@pytest.fixture
def model(tmp_path):
    return start(TextStream, tmp_path, engine="mock", mock={"steps_per_second": 0, "mode": "digits"})


def test_a_plain_post_to_a_text_stream_model_streams_until_the_end_marker(model):
    reply = run(model, send(model, "predict", body(max_tokens=4), [JSON]))

    assert reply.content_type == "text/event-stream; charset=utf-8"
    assert reply.chunks == [b"5", b"6", b"7", b"8", b"<|endoftext|>"]  # after "User: hello\nAI: "


def test_the_prompt_comes_first_when_it_is_wanted(model):
    reply = run(model, send(model, "predict", body(max_tokens=1, return_prompt=True), [JSON]))

    assert b"".join(reply.chunks) == b"User: hello\nAI: 5<|endoftext|>"


def test_an_engine_that_fails_is_told_by_a_status_or_breaks_the_stream_off(model):
    begun = send(model, "predict", body(), [JSON])
    model.step()
    waiting = send(model, "predict", body(), [JSON])

    model.engine.drain()

    assert (begun.status, begun.chunks, begun.closed) == (200, [b"5"], True) and begun.error
    assert (waiting.status, waiting.body, waiting.chunks) == (503, b"Prediction failed", [])


def test_a_text_stream_model_refuses_in_this_api_s_words(model):
    reply = send(model, "predict", body(top_k=0), [JSON])

    assert reply.status == 400
    assert "top_k=0" in json.loads(reply.body)["message"]
