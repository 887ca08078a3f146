import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the internet

import litellm

USER = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize("prefix", ["openai", "hosted_vllm"])
def test_a_chat_says_the_same_whole_and_streamed(url, prefix):
    asked = {
        "model": f"{prefix}/m",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "messages": USER,
        "max_tokens": 8,
        "temperature": 0,
    }

    whole = litellm.completion(**asked).choices[0].message.content
    chunks = list(litellm.completion(**asked, stream=True))

    assert len(whole) == 8
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def test_a_completion_is_answered(url):
    answer = litellm.text_completion(
        model="text-completion-openai/m", prompt="Once", api_base=f"{url}/v1", api_key="none", max_tokens=8
    )

    assert len(answer.choices[0].text) == 8


def test_texts_are_embedded(url):
    answer = litellm.embedding(model="openai/m", input=["one", "two"], api_base=f"{url}/v1", api_key="none")

    assert len(answer.data) == 2


def test_an_unknown_model_is_not_found(url):
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/other", api_base=f"{url}/v1", api_key="none", messages=USER)
