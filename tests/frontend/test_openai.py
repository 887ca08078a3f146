"""The OpenAI API on a real data plane with the mock engine behind it, asked by OpenAI's own client."""

import asyncio
import base64
import json
import re
import struct

import openai
import pydantic
import pytest

from flambeau.frontend import openai_text
from flambeau.frontend.gate import InferenceKey

from .conftest import until, write_keys
from .text_worker import CAPABILITIES, TextWorker

USER = [{"role": "user", "content": "Hello!"}]
HUGE_OPTION = b'{"model": "m", "messages": [{"role": "user"}], "chat_template_kwargs": {"x": %d}}' % 10**30
LONG_NAME = b'{"input": "a", "model": "' + b"x" * 1_000_000 + b'"}'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def serve(run, runtime):
    """Runs `scenario(client, worker, plane)`; the model is `m`."""

    def start(scenario, section=(), options=(), **route):
        async def scene(plane):
            worker = TextWorker(runtime, **dict(section))
            await worker.start()
            plane.publish(worker, capabilities=CAPABILITIES, **route)
            base = f"http://127.0.0.1:{plane.port}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
                await scenario(client, worker, plane)

        run(scene, **dict(options))

    return start


def test_models_are_listed_and_described(serve):
    async def scenario(client, worker, plane):
        listed = [model async for model in client.models.list()]
        one = await client.models.retrieve("m")

        assert [model.id for model in listed] == ["m"]
        assert (one.id, one.object, one.max_model_len) == ("m", "model", 4096)

    serve(scenario)


def test_a_chat_is_answered_whole(serve):
    async def scenario(client, worker, plane):
        answer = await client.chat.completions.create(model="m", messages=USER, max_completion_tokens=6, temperature=0)

        (choice,) = answer.choices
        assert (choice.message.role, len(choice.message.content), choice.finish_reason) == ("assistant", 6, "length")
        assert answer.usage.completion_tokens == 6
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
        assert answer.id == f"chatcmpl-{answer._request_id}"

    serve(scenario)


def test_a_streamed_chat_begins_with_the_role_and_says_the_same(serve):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "messages": USER, "max_tokens": 6, "temperature": 0}
        whole = await client.chat.completions.create(**asked)

        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        *chunks, last = [chunk async for chunk in stream]

        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "length"
        assert last.choices == [] and last.usage == whole.usage

    serve(scenario)


def test_a_stream_may_count_its_tokens_as_they_come(serve):
    async def scenario(client, worker, plane):
        options = {"include_usage": True, "continuous_usage_stats": True}
        asked = {"model": "m", "prompt": ["one", "two"], "n": 2, "max_tokens": 3}
        chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True, stream_options=options)]

        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts == sorted(counts) and set(counts) >= {1, 11} and counts[-1] == 12
        assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == 6

    serve(scenario)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_several_prompts_and_choices_are_numbered_in_order(serve, streamed):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "prompt": ["one", "two", "three"], "n": 2, "max_tokens": 3, "seed": 1}
        if streamed:
            texts = {}
            async for chunk in await client.completions.create(**asked, stream=True):
                for choice in chunk.choices:
                    texts[choice.index] = texts.get(choice.index, "") + choice.text
        else:
            answer = await client.completions.create(**asked)
            texts = {choice.index: choice.text for choice in answer.choices}
            assert answer.usage.completion_tokens == 18

        assert sorted(texts) == [0, 1, 2, 3, 4, 5]
        alone = await client.completions.create(**asked | {"prompt": "two"})
        assert [texts[2], texts[3]] == [choice.text for choice in alone.choices]

    serve(scenario)


def test_more_prompts_than_the_queue_holds_are_answered_in_turn(serve):
    async def scenario(client, worker, plane):
        answer = await client.completions.create(model="m", prompt=["x"] * 100, max_tokens=1)

        assert len(answer.choices) == 100

    serve(scenario, {"max_batch_rows": 4}, job_queue_size=40)


def test_a_prompt_is_scored_as_evaluation_harnesses_ask(serve):
    async def scenario(client, worker, plane):
        prompt = [104, 101, 108, 108, 111]
        answer = await client.completions.create(model="m", prompt=[prompt], max_tokens=1, logprobs=1, echo=True)

        logprobs = answer.choices[0].logprobs
        assert answer.choices[0].text[:5] == "hello"
        assert logprobs.tokens[:5] == list("hello") and len(logprobs.tokens) == 6
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        assert logprobs.text_offset == [0, 1, 2, 3, 4, 5]
        for value, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert max(top.values()) == value

    serve(scenario)


def test_a_prompt_s_log_probabilities_come_as_vllm_tells_them(serve):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "prompt": "abc", "max_tokens": 1, "extra_body": {"prompt_logprobs": 2}}
        (choice,) = (await client.completions.create(**asked)).choices
        first, second, _ = choice.prompt_logprobs
        assert first is None and choice.logprobs is None
        assert [(entry["rank"], entry["decoded_token"]) for entry in second.values()] == [(1, "b"), (2, "c")]
        assert second[str(ord("b"))]["logprob"] < 0

        both = (await client.completions.create(**asked, echo=True, logprobs=1)).choices[0]
        assert both.prompt_logprobs == choice.prompt_logprobs
        assert [len(top) for top in both.logprobs.top_logprobs[1:]] == [1] * 3

        chat = await client.chat.completions.create(
            model="m", messages=USER, max_tokens=1, extra_body={"prompt_logprobs": 0}
        )
        assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens and len(chat.prompt_logprobs[1]) == 1

    serve(scenario)


def test_a_prompt_alone_can_be_scored(serve):
    async def scenario(client, worker, plane):
        answer = await client.completions.create(model="m", prompt="hello", max_tokens=0, logprobs=0, echo=True)

        assert answer.choices[0].text == "hello"
        assert len(answer.choices[0].logprobs.tokens) == 5

    serve(scenario)


def test_a_chat_tells_log_probabilities_with_bytes(serve):
    async def scenario(client, worker, plane):
        answer = await client.chat.completions.create(model="m", messages=USER, max_tokens=2, logprobs=True, top_logprobs=3)

        first = answer.choices[0].logprobs.content[0]
        assert bytes(first.bytes).decode() == first.token
        assert len(first.top_logprobs) == 3 and first.logprob <= 0

    serve(scenario)


MANY_LOGPROBS = {"model": "m", "messages": USER, "logprobs": True, "top_logprobs": 20}


@pytest.mark.parametrize("choices", [1, 3])
def test_a_whole_answer_may_be_larger_than_what_a_stream_may_leave_lying(serve, choices):
    async def scenario(client, worker, plane):
        answer = await client.chat.completions.create(**MANY_LOGPROBS, max_tokens=1500, n=choices)

        assert [len(choice.logprobs.content) for choice in answer.choices] == [1500] * choices

    serve(scenario)


def test_a_whole_answer_is_bounded_by_max_response_size(serve):
    async def scenario(client, worker, plane):
        plane.app.models.max_response_bytes = 10_000

        with pytest.raises(openai.InternalServerError, match="max_response_size") as refused:
            await client.chat.completions.create(**MANY_LOGPROBS, max_tokens=800)

        assert refused.value.status_code == 507

    serve(scenario)


def test_who_does_not_read_its_stream_is_cut_off(serve):
    async def scenario(client, worker, plane):
        plane.app.models.backlog_bytes = 10_000
        reader = await plane.client()

        reader.send(
            "/v1/chat/completions", json.dumps(MANY_LOGPROBS | {"max_tokens": 4000, "n": 8, "stream": True}).encode()
        )

        await until(lambda: worker.stats.aborted)

    serve(scenario)


def test_a_stop_string_ends_a_text_and_is_left_out(serve):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "prompt": "hello", "max_tokens": 30, "temperature": 0}
        full = (await client.completions.create(**asked)).choices[0].text

        cut = (await client.completions.create(**asked, stop=[full[5:8]])).choices[0]

        assert (cut.text, cut.finish_reason) == (full[: full.find(full[5:8])], "stop")

    serve(scenario)


def test_embeddings_come_as_floats_and_as_base64(serve):
    async def scenario(client, worker, plane):
        as_client_asks = await client.embeddings.create(model="m", input=["one", "two"])
        floats = await client.embeddings.create(model="m", input=[[111, 110, 101]], encoding_format="float")
        raw = await client.embeddings.with_raw_response.create(model="m", input="one", encoding_format="base64")
        packed = json.loads(raw.text)

        assert as_client_asks.data[0].embedding == pytest.approx(floats.data[0].embedding)
        data = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(floats.data[0].embedding)
        assert as_client_asks.usage.prompt_tokens == 6

    serve(scenario)


class City(pydantic.BaseModel):
    name: str
    people: int


def test_an_answer_is_parsed_into_a_type(serve):
    async def scenario(client, worker, plane):
        answer = await client.chat.completions.parse(model="m", messages=USER, response_format=City)

        assert answer.choices[0].message.parsed == City(name="a", people=0)

    serve(scenario)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["any", "named"]
)
def test_a_model_can_be_held_to_a_call(serve, choice):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "messages": USER, "tools": [WEATHER], "tool_choice": choice}
        answer = await client.chat.completions.create(**asked)
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]

        (call,) = answer.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "a"})
        assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert [(delta.function.name, delta.function.arguments) for delta in deltas] == [("weather", '{"city": "a"}')]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    serve(scenario)


@pytest.mark.parametrize(
    ("asked", "error", "param"),
    [
        pytest.param({"model": "other"}, openai.NotFoundError, None, id="no such model"),
        pytest.param({"temperature": -1}, openai.BadRequestError, "temperature", id="out of bounds"),
        pytest.param({"messages": []}, openai.BadRequestError, "messages", id="no messages"),
        pytest.param({"max_tokens": "x"}, openai.BadRequestError, "max_tokens", id="a wrong type"),
        pytest.param(
            {"messages": [{"role": "user", "content": "x" * 5000}]}, openai.BadRequestError, "prompt", id="too long"
        ),
        pytest.param({"tool_choice": "required"}, openai.BadRequestError, "tool_choice", id="no tools"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_errors_are_those_the_client_knows(serve, asked, error, param, streamed):
    async def scenario(client, worker, plane):
        with pytest.raises(error) as refused:
            await client.chat.completions.create(**{"model": "m", "messages": USER} | asked, stream=streamed)

        assert refused.value.param == param
        assert refused.value.body["message"]

    serve(scenario)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("POST", "/v1/responses", b"{}", 404, id="a route that is none"),
        pytest.param("POST", "/v1", b"{}", 404, id="the API itself"),
        pytest.param("POST", "/v1/embeddings", LONG_NAME, 404, id="a model's name of a megabyte"),
        pytest.param("PUT", "/v1/models", b"", 404, id="another method"),
        pytest.param("POST", "/v1/completions", b'{"model": "m", "prompt": "\\ud83c"}', 400, id="half a character"),
        pytest.param("POST", "/v1/completions", b'{"model": "\\ud83c", "prompt": "a"}', 400, id="half a model"),
        pytest.param("POST", "/v1/embeddings", b'{"model": "m", "input": ["a", [999]]}', 400, id="a token that is none"),
        pytest.param("POST", "/v1/chat/completions", HUGE_OPTION, 400, id="a number that can't travel"),
    ],
)
def test_whatever_is_asked_errors_have_this_apis_envelope(serve, method, path, body, status):
    async def scenario(client, worker, plane):
        http = await plane.client()

        answer = await http.ask(path, body, method=method)

        assert answer.status == status
        assert json.loads(answer.body)["error"]["type"] in ("not_found_error", "invalid_request_error")
        assert not worker.stats.waiting
        assert len(answer.body) < 1000

    serve(scenario)


ODD = [True, -1, 1.5, 10**30, float("nan"), "x", "x" * 100_000, [], [None], {"a": 10**400}, {"a": 10**30}]
DEEP = b'{"model": "m", "prompt": "x", "messages": [{"role": "user"}], "%s": ' + b"[" * 980 + b"]" * 980 + b"}"
KEYS = [
    "model", "prompt", "messages", "input", "tokens", "suffix", "best_of", "echo", "temperature", "top_p", "top_k", "min_p",
    "max_tokens", "max_completion_tokens", "n", "seed", "stop", "stop_token_ids", "logprobs", "top_logprobs",
    "prompt_logprobs", "logit_bias", "response_format", "tools", "tool_choice", "stream", "stream_options",
    "chat_template_kwargs", "priority", "cache_salt", "presence_penalty", "min_tokens", "ignore_eos", "structured_outputs",
    "guided_regex", "dimensions",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"])
def test_no_value_of_any_parameter_is_our_fault(serve, path):
    good = {"model": "m", "prompt": "x", "messages": USER, "input": "x", "tokens": [65], "max_tokens": 1}
    if path == "/tokenize":
        del good["messages"]

    async def scenario(client, worker, plane):
        async def refused(body: bytes) -> None:
            http = await plane.client()
            answer = await http.ask(path, body)
            http.writer.close()
            assert answer.status < 500, (body[:200], answer.body[:500])
            if answer.status >= 400:
                assert len(answer.body) < 1000, body[:200]
                assert json.loads(answer.body)["error"].keys() == {"message", "type", "param", "code"}

        for key in KEYS:
            for value in ODD:
                await refused(json.dumps(good | {key: value}).encode())
            await refused(DEEP % key.encode())
        for body in (b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"model": "m", "prompt": "\xff"}'):
            await refused(body)

    serve(scenario)


def test_a_bad_key_is_what_the_client_knows_whatever_torchserve_says(serve, runtime):
    write_keys(runtime, InferenceKey("right"))

    async def scenario(client, worker, plane):
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.completions.create(model="m", prompt="x")
        assert (refused.value.type, refused.value.code) == ("authentication_error", "invalid_api_key")
        assert refused.value.response.headers["www-authenticate"] == "Bearer"

        good = client.with_options(api_key="right")
        assert (await good.completions.create(model="m", prompt="x")).choices

        kserve = await (await plane.client()).ask("/v1/models/m:predict", b"{}")
        assert (kserve.status, json.loads(kserve.body)["code"]) == (400, 400)

    serve(scenario, options={"token_authorization": True, "token_status": 400})


@pytest.mark.parametrize(
    ("path", "method", "body", "headers", "status"),
    [
        pytest.param("/v1/completions", "POST", b"x" * 3000, {}, 413, id="too large"),
        pytest.param("/tokenize", "PUT", b"", {}, 405, id="another method"),
        pytest.param("/v1/", "GET", b"", {}, 404, id="no route at all"),
        pytest.param("/v1/models", "GET", b"", {"X": "x" * 70_000}, 431, id="headers too large"),
        pytest.param("/v1/models", "GET", b"", {"Origin": "http://evil.example"}, 403, id="somebody else's page"),
    ],
)
def test_what_never_comes_to_a_handler_is_refused_in_this_apis_words(serve, path, method, body, headers, status):
    async def scenario(client, worker, plane):
        http = await plane.client()

        answer = await http.ask(path, body, method=method, headers=headers)

        assert answer.status == status
        assert json.loads(answer.body)["error"].keys() == {"message", "type", "param", "code"}
        assert json.loads(answer.body)["error"]["type"].endswith("_error")

    serve(scenario, options={"max_request_bytes": 2000})


def test_a_fault_of_ours_is_a_500_in_this_apis_words(serve, monkeypatch):
    async def scenario(client, worker, plane):
        monkeypatch.setattr(openai_text, "whole", None)

        with pytest.raises(openai.InternalServerError) as failed:
            await client.completions.create(model="m", prompt="x")

        assert (failed.value.status_code, failed.value.type) == (500, "server_error")

    serve(scenario)


def test_a_request_may_bring_its_id(serve):
    async def scenario(client, worker, plane):
        asked = {"model": "m", "prompt": "x", "max_tokens": 1}
        answer = await client.completions.create(**asked, extra_headers={"X-Request-ID": "trace-7/a"})

        assert (answer._request_id, answer.id) == ("trace-7/a", "cmpl-trace-7/a")
        assert worker.requests[-1].request_id == "trace-7/a"

        with pytest.raises(openai.BadRequestError) as refused:
            await client.completions.create(**asked, n=0, extra_headers={"X-Request-ID": "trace-8"})
        assert refused.value.request_id == "trace-8"

        http = await plane.client()
        for useless in ("x" * 129, "two words", "t\u00e9l\u00e9", ""):
            answer = await http.ask("/v1/models", method="GET", headers={"X-Request-ID": useless})
            assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])

    serve(scenario)


@pytest.mark.parametrize(
    ("options", "error", "status"),
    [({}, openai.InternalServerError, 503), ({"queue_full_status": 429}, openai.RateLimitError, 429)],
    ids=["as it is", "as the operator has it"],
)
def test_a_full_queue_says_when_to_come_back(serve, options, error, status):
    async def scenario(client, worker, plane):
        async def ask():
            return await client.completions.create(model="m", prompt="x", max_tokens=50)

        answers = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)

        refused = [answer for answer in answers if isinstance(answer, error)]
        assert len(refused) == 2
        assert refused[0].status_code == status and refused[0].response.headers["retry-after"]

    section = {"max_batch_rows": 1, "max_waiting": 1, "mock": {"steps_per_second": 200}}
    serve(scenario, section, options, job_queue_size=2)


@pytest.mark.parametrize("prompts", ["one", ["one", "two", "three"]], ids=["one prompt", "three prompts"])
def test_a_client_that_closes_its_stream_frees_its_rows(serve, prompts):
    async def scenario(client, worker, plane):
        stream = await client.completions.create(model="m", prompt=prompts, stream=True, max_tokens=4000)
        await anext(aiter(stream))

        await stream.close()

        async with asyncio.timeout(5):
            while worker.stats.running or worker.stats.waiting:
                await asyncio.sleep(0.005)
        assert worker.stats.aborted >= 1

    serve(scenario, {"mock": {"steps_per_second": 200}})


def test_an_engine_that_fails_is_told_in_the_stream(serve):
    async def scenario(client, worker, plane):
        stream = await client.completions.create(model="m", prompt="x", stream=True, max_tokens=4000)
        await anext(aiter(stream))
        worker.handler.engine.drain()

        with pytest.raises(openai.APIError, match="given up"):
            async for _ in stream:
                pass

    serve(scenario, {"mock": {"steps_per_second": 200}})


def test_tokens_are_counted_and_joined(serve):
    async def scenario(client, worker, plane):
        http = await plane.client()

        async def ask(path, given=None):
            sent = b"" if given is None else json.dumps(given).encode()
            return json.loads((await http.ask(path, sent, method="GET" if given is None else "POST")).body)

        tokens = await ask("/tokenize", {"prompt": "hi", "add_special_tokens": False})
        assert tokens == {"tokens": [104, 105], "count": 2, "max_model_len": 4096}
        assert await ask("/detokenize", {"model": "m", "tokens": [104, 105]}) == {"prompt": "hi"}
        assert (await ask("/tokenizer_info"))["eos_token"] == "<|endoftext|>"
        assert (await ask("/tokenize", {"messages": USER}))["count"] > 6

    serve(scenario)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        pytest.param({}, "Hi! :", id="nothing"),
        pytest.param({"tools": [WEATHER]}, "Hi!weather :", id="tools"),
        pytest.param({"tools": [WEATHER], "tool_choice": "none"}, "Hi! :", id="tools that are not to be called"),
        pytest.param({"add_generation_prompt": False}, "Hi! ", id="no prompt for the answer"),
        pytest.param({"continue_final_message": True}, "Hi!", id="an answer that goes on"),
        pytest.param({"chat_template_kwargs": {"mood": "x"}}, "Hi! x:", id="variables of the template"),
    ],
)
def test_messages_are_tokenized_as_a_chat_has_them(serve, more, text):
    template = (
        "{{ messages[0].content }}{% for t in tools or [] %}{{ t.function.name }}{% endfor %} {{ mood }}"
        "{% if add_generation_prompt %}:{% endif %}"
    )

    async def scenario(client, worker, plane):
        given = {"messages": [{"role": "user", "content": "Hi!"}], **more}
        http = await plane.client()
        answer = json.loads((await http.ask("/tokenize", json.dumps(given).encode(), method="POST")).body)
        chat = await client.chat.completions.create(model="m", messages=given["messages"], max_tokens=2, extra_body=more)

        assert bytes(answer["tokens"]).decode() == text
        assert answer["count"] == chat.usage.prompt_tokens

    serve(scenario, {"chat_template": template})
