"""Generate text: the handler of most language models. A plain POST speaks HELM's prompt API; see `helm`."""

import time

from . import helm
from .base import Reply, Request
from .generation import GenerationEvent
from .language_model import LanguageModel, gave_up


class TextGeneration(LanguageModel):
    def predict(self, request: Request, reply: Reply) -> None:
        wanted, began = helm.read(request.body, self.config), time.monotonic()
        events: list[GenerationEvent] = []

        def finish() -> None:
            if failed := next((event for event in events if event.failed), None):
                gave_up(reply, failed.error)
                return
            body = helm.answer(wanted, events, time.monotonic() - began, self.config.deny)
            reply.respond(body, content_type="application/json")

        if wanted.generation is None:
            reply.respond(helm.answer(wanted, [], 0.0), content_type="application/json")
        else:
            self.run_generation(request, reply, wanted.generation, events.append, finish)
