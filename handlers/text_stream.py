"""Generate text for Falcon's clients: a plain POST to /predictions takes `text` and streams, as /inference does; but, as in the
original, the text is one turn of a chat.
"""

import json

from . import falcon
from .base import Reply, Request
from .generation import GenerationEvent
from .language_model import LanguageModel, gave_up


class TextStream(LanguageModel):
    def predict(self, request: Request, reply: Reply) -> None:
        content_type = next((value for name, value in request.head.headers if name.lower() == b"content-type"), b"")
        try:
            asked = falcon.read(bytes(request.body), content_type.decode("latin-1"), falcon.one_turn)
        except falcon.Refused as error:
            body = json.dumps({"message": str(error)}).encode()
            reply.respond(body, status=400, content_type="application/json")
            return
        before, begun = asked.before, False

        def emit(event: GenerationEvent) -> None:
            nonlocal before, begun
            if event.failed:
                if begun:
                    reply.end(event.error or "The generation was given up.")
                else:
                    gave_up(reply, event.error)
                return
            if not begun:
                reply.start(content_type=falcon.STREAM)
            if text := before + event.text:
                reply.chunk(text.encode())
            before, begun = "", True

        def finish() -> None:
            if not reply.closed:
                reply.chunk(falcon.END.encode())
                reply.end()

        self.run_generation(request, reply, asked.generation, emit, finish)
