"""What all text handlers share: a model, its tokenizer and an engine, driven by the worker step by step.

The operations `generate`, `score`, `embed` and `tokenize` take and give MessagePack bodies (see `generation`); `predict`,
the body of a plain POST, is what each handler makes of it. Bad requests are answered with status 400 and the error type
`InvalidRequest`; the header `param` names the parameter.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from .base import Reply, Request
from .engine.config import TextModelConfig, read
from .engine.interface import EngineLike
from .generation import (
    EmbedAnswer,
    EmbedRequest,
    GenerationEvent,
    GenerationRequest,
    InvalidRequest,
    ScoreAnswer,
    ScoreRequest,
    TokenizeAnswer,
    TokenizeRequest,
)
from .prefill_jobs import Embedding, Failed, Scoring
from .text_jobs import Generation, prompt_ids
from .text_metrics import TextMetrics
from .tokenizer import ByteTokenizer, Tokenizer

if TYPE_CHECKING:
    from .context import Context

log = logging.getLogger(__name__)
T = TypeVar("T")
encode = msgspec.msgpack.Encoder().encode
MSGPACK = "application/msgpack"


class Job(Protocol):
    def cancel(self) -> None: ...


class LanguageModel:
    """Implements base.ContinuousHandler; a ready-made handler is a subclass with its own `predict`."""

    operations: tuple[str, ...] = ("generate", "score", "embed", "tokenize")

    engine: EngineLike
    tokenizer: Tokenizer
    config: TextModelConfig

    def initialize(self, context: "Context") -> None:
        self.config = read(context.model_yaml_config.get("handler") or {})
        self._jobs: dict[int, Job] = {}
        if self.config.engine == "mock":
            time.sleep(self.config.mock.load_seconds)
            self.tokenizer = ByteTokenizer(self._template(Path(context.model_dir)) or None)
            self.engine = mock_engine(self.config, self.tokenizer)
        else:
            from .engine.loading import load

            loaded = load(self.config, Path(context.model_dir), context.gpu_id, self._template(Path(context.model_dir)))
            self.tokenizer, self.engine = loaded.tokenizer, loaded.engine
        self.metrics = TextMetrics(self.engine, context.metrics, worker_id=context.worker_id)
        log.info("model %s: %s ready", context.model_name, type(self.engine).__name__)

    @property
    def credit(self) -> int:
        """Requests which one HTTP process may have here at a time: those that run and those that wait for a row."""
        rows, waiting = self.config.max_batch_rows, self.config.max_waiting
        return rows + (rows if waiting is None else waiting)

    def submit(self, request: Request, reply: Reply) -> None:
        operation = request.head.operation
        work = {
            "predict": self.predict,
            "generate": self.generate,
            "score": self.score,
            "embed": self.embed,
            "tokenize": self.tokenize,
            "describe": self.describe,
        }.get(operation)
        try:
            if work is None or operation not in (*self.operations, "predict", "describe"):
                raise InvalidRequest(f"this model does not {operation}")
            work(request, reply)
        except InvalidRequest as error:
            refuse(reply, error)
        except msgspec.ValidationError as error:
            refuse(reply, InvalidRequest(str(error)))
        except RecursionError:
            refuse(reply, InvalidRequest("the request holds too many lists or objects in one another"))

    def cancel(self, id: int) -> None:
        if job := self._jobs.pop(id, None):
            job.cancel()

    def step(self) -> bool:
        busy = self.engine.step()
        self.metrics.look(busy)
        return busy

    def predict(self, request: Request, reply: Reply) -> None:
        raise InvalidRequest("this model answers no plain predictions")

    def describe(self, request: Request, reply: Reply) -> None:
        facts = {"max_model_len": self.engine.max_model_len, "vocab_size": self.tokenizer.vocab_size}
        reply.respond(msgspec.json.encode(facts), content_type="application/json")

    def generate(self, request: Request, reply: Reply) -> None:
        wanted = _decode(request, GenerationRequest)

        def emit(event: GenerationEvent) -> None:
            reply.chunk(encode(event))

        self.run_generation(request, reply, wanted, emit, reply.end)
        reply.start(content_type=MSGPACK)

    def run_generation(
        self,
        request: Request,
        reply: Reply,
        wanted: GenerationRequest,
        emit: Callable[[GenerationEvent], None],
        finish: Callable[[], None],
    ) -> None:
        """Start a job whose events go to `emit`; `finish` is called after the last one."""
        watch = self.metrics.watch(request)
        if self.config.truncate_prompt:
            wanted = msgspec.structs.replace(wanted, truncate_prompt=True)

        def done() -> None:
            self._jobs.pop(request.id, None)
            finish()

        self._jobs[request.id] = Generation(self.engine, self.tokenizer, wanted, emit, done, watch)

    def score(self, request: Request, reply: Reply) -> None:
        self.run_scoring(request, reply, _decode(request, ScoreRequest), lambda answer: _respond(reply, answer))

    def run_scoring(
        self, request: Request, reply: Reply, wanted: ScoreRequest, done: Callable[[ScoreAnswer], None]
    ) -> None:
        job = Scoring(self.engine, self.tokenizer, wanted, self._finishing(request, reply, done))
        self._keep(request, reply, job)

    def embed(self, request: Request, reply: Reply) -> None:
        self.run_embedding(request, reply, _decode(request, EmbedRequest), lambda answer: _respond(reply, answer))

    def run_embedding(
        self, request: Request, reply: Reply, wanted: EmbedRequest, done: Callable[[EmbedAnswer], None]
    ) -> None:
        job = Embedding(self.engine, self.tokenizer, wanted, self._finishing(request, reply, done))
        self._keep(request, reply, job)

    def tokenize(self, request: Request, reply: Reply) -> None:
        wanted = _decode(request, TokenizeRequest)
        tokenizer, ids, text = self.tokenizer, None, None
        if wanted.ids is not None:
            text = tokenizer.decode(wanted.ids, skip_special_tokens=False)
        elif wanted.messages is not None:
            chat = GenerationRequest(
                messages=wanted.messages,
                tools=wanted.tools,
                add_generation_prompt=wanted.add_generation_prompt,
                continue_final_message=wanted.continue_final_message,
                template_options=wanted.template_options,
            )
            ids = prompt_ids(tokenizer, chat)
        elif wanted.prompt is not None:
            ids = tokenizer.encode(wanted.prompt, wanted.add_special_tokens)
        answer = TokenizeAnswer(
            ids=ids,
            text=text,
            max_model_len=self.engine.max_model_len,
            vocab_size=tokenizer.vocab_size,
            info=tokenizer.facts() if ids is None and text is None else {},
        )
        _respond(reply, answer)

    def _keep(self, request: Request, reply: Reply, job: Job) -> None:
        if not reply.closed:
            self._jobs[request.id] = job

    def _finishing(self, request: Request, reply: Reply, done: Callable[[T], None]) -> Callable[[T | Failed], None]:
        watch = self.metrics.watch(request)

        def finish(answer: T | Failed) -> None:
            self._jobs.pop(request.id, None)
            watch.ended("error" if isinstance(answer, Failed) else "stop")
            if isinstance(answer, Failed):
                gave_up(reply, str(answer))
            else:
                done(answer)

        return finish

    def _template(self, folder: Path) -> str:
        """The configured chat template: a file of the archive, or the template itself."""
        given = self.config.chat_template
        path = folder / given
        return path.read_text() if given and len(given) < 200 and path.is_file() else given


def refuse(reply: Reply, error: InvalidRequest) -> None:
    headers = [("param", error.param)] if error.param else []
    reply.respond(str(error).encode(), status=400, headers=headers, error="InvalidRequest")


def gave_up(reply: Reply, error: str) -> None:
    """The engine failed, or ends; `error` is the exception's type. What the client is told is what other handlers' clients are."""
    memory = error.endswith("MemoryError")
    message = b"Out of resources" if memory else b"Prediction failed"
    reply.respond(message, status=507 if memory else 503, error="InternalServerException")


def mock_engine(config: TextModelConfig, tokenizer: Tokenizer) -> EngineLike:
    from .engine.mock import Faults, MockEngine, Timing

    mock = config.mock
    timing = Timing(mock.alpha, mock.beta, mock.gamma, mock.delta)
    if timing == Timing() and mock.steps_per_second > 0:
        step = 1000 / mock.steps_per_second
        timing = Timing(alpha=step, gamma=step)
    return MockEngine(
        mock.mode,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=tokenizer.vocab_size,
        max_model_len=config.max_model_len or 4096,
        max_rows=config.max_batch_rows,
        timing=timing,
        faults=Faults(mock.crash_at_step, mock.raise_at_step, mock.stall_at_step, mock.stall_seconds),
    )


def _decode(request: Request, kind: type[T]) -> T:
    return msgspec.msgpack.decode(request.body, type=kind)


def _respond(reply: Reply, answer: Any) -> None:
    reply.respond(encode(answer), content_type=MSGPACK)
