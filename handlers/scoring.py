"""Score texts: the log-likelihood of each one under a language model.

A plain POST takes `{"prefix": "…", "suffixes": ["…"]}`, or texts in any form that `embedding` takes; it answers
`{"scores": […], "token_counts": […]}`.
"""

import msgspec

from . import embedding
from .base import Reply, Request
from .generation import ScoreAnswer, ScoreRequest
from .language_model import LanguageModel


class Scoring(LanguageModel):
    operations = ("score", "tokenize")

    def predict(self, request: Request, reply: Reply) -> None:
        def done(answer: ScoreAnswer) -> None:
            reply.respond(msgspec.json.encode(answer), content_type="application/json")

        self.run_scoring(request, reply, self._read(bytes(request.body)), done)

    @staticmethod
    def _read(body: bytes) -> ScoreRequest:
        try:
            return msgspec.json.decode(body, type=ScoreRequest)
        except (msgspec.DecodeError, UnicodeDecodeError):
            texts, _ = embedding.read(body)
            return ScoreRequest(suffixes=texts)
