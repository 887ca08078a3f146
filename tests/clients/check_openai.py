"""OpenAI's own client, at whichever version the others bring, against a server of its own process."""

import json

import openai
import pydantic
import pytest

USER = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(pydantic.BaseModel):
    name: str
    people: int


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["m"]


def test_a_chat_says_the_same_whole_and_streamed(client):
    asked = {"model": "m", "messages": USER, "max_tokens": 8, "temperature": 0}

    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))

    assert len(whole.choices[0].message.content) == 8
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage


def test_a_stream_that_is_closed_leaves_the_server_at_rest(client):
    for _ in range(70):  # more than the server has rows
        with client.completions.create(model="m", prompt="Once", max_tokens=4000, stream=True) as stream:
            next(iter(stream))

    assert len(client.completions.create(model="m", prompt="Once", max_tokens=8).choices[0].text) == 8


def test_an_answer_is_parsed_into_a_type(client):
    answer = client.chat.completions.parse(model="m", messages=USER, response_format=City)

    assert answer.choices[0].message.parsed == City(name="a", people=0)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called(client, streamed):
    asked = {"model": "m", "messages": USER, "tools": [WEATHER], "tool_choice": "required"}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)

    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "a"})


def test_texts_are_embedded(client):
    answer = client.embeddings.create(model="m", input=["one", "two"])

    assert len(answer.data) == 2 and answer.data[0].embedding != answer.data[1].embedding


@pytest.mark.parametrize(
    ("asked", "error", "param"),
    [
        pytest.param({"model": "other"}, openai.NotFoundError, None, id="no such model"),
        pytest.param({"temperature": -1}, openai.BadRequestError, "temperature", id="out of bounds"),
        pytest.param({"messages": []}, openai.BadRequestError, "messages", id="no messages"),
        pytest.param({"tools": [WEATHER], "tool_choice": "never"}, openai.BadRequestError, "tool_choice", id="no choice"),
        pytest.param({"messages": [{"role": "user", "content": "x" * 9000}]}, openai.BadRequestError, "prompt", id="long"),
    ],
)
def test_errors_are_those_it_knows(client, asked, error, param):
    with pytest.raises(error) as refused:
        client.chat.completions.create(**{"model": "m", "messages": USER} | asked)

    assert refused.value.param == param and refused.value.body["message"]


def test_a_route_that_is_none_is_an_error_it_knows(client):
    with pytest.raises(openai.NotFoundError, match="There is no POST /v1/responses here"):
        client.responses.create(model="m", input="Hello!")
