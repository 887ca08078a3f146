"""Embed texts: a vector for each, from a decoder's last hidden states or from an encoder such as MiniLM.

A plain POST takes a JSON string, a list of strings, or an object with one of these under `inputs`, `input` or `text`; any
other body is itself the text.
"""

import msgspec

from .base import Reply, Request
from .generation import EmbedAnswer, EmbedRequest
from .language_model import LanguageModel

KEYS = ("inputs", "input", "text", "data")


class Embedding(LanguageModel):
    operations = ("embed", "tokenize")

    def predict(self, request: Request, reply: Reply) -> None:
        texts, single = read(bytes(request.body))

        def done(answer: EmbedAnswer) -> None:
            vectors = answer.embeddings
            reply.respond(msgspec.json.encode(vectors[0] if single else vectors), content_type="application/json")

        self.run_embedding(request, reply, EmbedRequest(inputs=[*texts]), done)


def read(body: bytes) -> tuple[list[str], bool]:
    """The texts, and whether one was sent bare."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [body.decode(errors="replace")], True
    if isinstance(given, dict):
        given = next((given[key] for key in KEYS if key in given), "")
    if isinstance(given, list):
        return [str(text) for text in given], False
    return [str(given)], True
