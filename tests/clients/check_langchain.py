import pydantic
import pytest
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings


class City(pydantic.BaseModel):
    """A city."""

    name: str
    people: int


@pytest.fixture
def chat(url):
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="m", max_tokens=8, temperature=0)


def test_a_chat_says_the_same_whole_and_streamed(chat):
    whole = chat.invoke("Hello!")

    assert len(whole.content) == 8
    assert "".join(chunk.content for chunk in chat.stream("Hello!")) == whole.content
    assert whole.usage_metadata["output_tokens"] == 8


def test_an_answer_becomes_a_type(url):
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="m")

    assert chat.with_structured_output(City).invoke("Hello!") == City(name="a", people=0)


def test_a_tool_is_called(url):
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="m").bind_tools([City], tool_choice="any")

    (call,) = chat.invoke("Hello!").tool_calls
    assert (call["name"], call["args"]) == ("City", {"name": "a", "people": 0})


def test_a_completion_with_its_nulls_is_answered(url):
    model = OpenAI(base_url=f"{url}/v1", api_key="none", model="m", max_tokens=8, temperature=0)

    assert len(model.invoke("Once")) == 8
    assert "".join(model.stream("Once")) == model.invoke("Once")


def test_texts_are_embedded(url):
    embeddings = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model="m", check_embedding_ctx_length=False)

    first, second = embeddings.embed_documents(["one", "two"])
    assert len(first) == len(second) and first != second
