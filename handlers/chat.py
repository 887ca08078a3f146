"""Talk: a language model whose plain POST takes `{"messages": […]}` and gives `{"message": {"role", "content"}}`.

Options of the body are SamplingParams' fields. The OpenAI API is the fuller way to the same model.
"""

import msgspec

from .base import Reply, Request
from .generation import SEEDS, GenerationEvent, GenerationRequest, InvalidRequest, Message, SamplingParams
from .language_model import LanguageModel, gave_up

DEFAULT_MAX_TOKENS = 256


class Chat(LanguageModel):
    def predict(self, request: Request, reply: Reply) -> None:
        wanted = self._read(request)

        def finish(event: GenerationEvent) -> None:
            if event.failed:
                gave_up(reply, event.error)
                return
            usage = event.usage
            body = {
                "message": {"role": "assistant", "content": event.text},
                "finish_reason": event.finish_reason,
                "usage": None if usage is None else {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens},
            }
            reply.respond(msgspec.json.encode(body), content_type="application/json")

        self.run_generation(request, reply, wanted, finish, lambda: None)

    @staticmethod
    def _read(request: Request) -> GenerationRequest:
        try:
            given = msgspec.json.decode(request.body, type=dict[str, msgspec.Raw])
            messages = msgspec.json.decode(given.get("messages", b""), type=list[Message])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f'a conversation is wanted, as in {{"messages": […]}}: {error}', "messages") from None
        sampling = msgspec.json.decode(request.body, type=SamplingParams)  # what is wrong with it names its parameter
        if sampling.seed is not None and not SEEDS[0] <= sampling.seed <= SEEDS[1]:
            raise InvalidRequest("seed: a whole number of 64 bits is wanted", "seed")
        if "max_tokens" not in given:
            sampling = msgspec.structs.replace(sampling, max_tokens=DEFAULT_MAX_TOKENS)
        return GenerationRequest(messages=messages, sampling=msgspec.structs.replace(sampling, n=1), stream=False)
