"""vLLM behind our interface: for who has it installed (the extra `vllm`) and asks for it (`handler.engine: vllm`).

Its synchronous engine is stepped by the worker's loop like ours, in the worker's own process. It has its own scheduler,
cache and samplers, so seeds give other texts than ours do. Not for: embeddings, which want another vLLM runner.
"""

import itertools
import os
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any

from ..generation import FinishReason, InvalidRequest, SamplingParams
from .config import ConfigError, TextModelConfig
from .interface import Event, Logprob, RequestKind, Sink, Stats, asked_by, check_ids

SURROUNDINGS = {  # read by vLLM when it is imported; what the environment says goes before
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its engine in this process, which is stopped and watched as any worker
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it would bind every worker to the same cores
    "VLLM_NO_USAGE_STATS": "1",
}
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


# JSON without blanks between its parts: small models would write blanks for ever.
GRAMMARS: dict[str, Callable[[str], dict[str, Any]]] = {
    "json_object": lambda _: {"json_object": True, "disable_any_whitespace": True},
    "json_schema": lambda text: {"json": text, "disable_any_whitespace": True},
    "tools": lambda text: {"json": text, "disable_any_whitespace": True},
    "regex": lambda text: {"regex": text},
    "lark": lambda text: {"grammar": text},
}


def load(config: TextModelConfig, source: str, kv_bytes: int | None = None) -> "VllmEngine":
    """`kv_bytes`: of the KV cache; None: what vLLM takes by itself, which on a CPU is nearly all memory."""
    threads = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    for name, value in (SURROUNDINGS | threads).items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import StructuredOutputsParams
    except ImportError:
        raise ConfigError("handler.engine: vllm is not installed; install the extra `vllm`") from None
    arguments = vllm.EngineArgs(
        model=source,
        dtype=config.dtype,
        max_num_seqs=config.max_batch_rows,
        max_num_batched_tokens=config.max_batch_tokens or None,
        max_model_len=config.max_model_len or None,
        max_logprobs=-1,
        kv_cache_memory_bytes=kv_bytes,
        tensor_parallel_size=config.num_gpu_per_model,
        enable_prefix_caching=config.prefix_cache,
        enforce_eager=not config.cuda_graphs,
        trust_remote_code=config.trust_remote_code,
        quantization="bitsandbytes" if config.quantize else None,
        scheduling_policy="priority",
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        disable_log_stats=True,
    )
    inner = vllm.LLMEngine.from_engine_args(arguments)
    kinds = Kinds(vllm.SamplingParams, StructuredOutputsParams, (ValueError, VLLMValidationError))
    return VllmEngine(inner, kinds, max_rows=config.max_batch_rows)


@dataclass(frozen=True)
class Kinds:
    """vLLM's types of what a request asks for, and of its refusals."""

    sampling: Callable[..., Any]
    structured: Callable[..., Any]
    refusals: tuple[type[Exception], ...]


class _Request:
    def __init__(self, sink: Sink, kind: RequestKind, params: SamplingParams, score_from: int) -> None:
        self.sink, self.kind, self.score_from, n = sink, kind, score_from, params.n
        self.reads_only = _reads_only(params, kind)
        self.ends = set(params.stop_token_ids)  # those that the event names
        self.most, self.most_of_prompt = params.logprobs or 0, params.prompt_logprobs or 0  # alternatives to each token
        self.sent = [0] * n  # tokens told, of each choice
        self.open = set(range(n))
        self.told = False


class VllmEngine:
    """Implements interface.EngineLike."""

    def __init__(self, inner: Any, kinds: Kinds, max_rows: int) -> None:
        self._inner, self._kinds, self._max_rows = inner, kinds, max_rows
        self.max_model_len: int = inner.model_config.max_model_len
        self.vocab_size: int = inner.model_config.get_vocab_size()
        self._handles = itertools.count(1)
        self._live: dict[int, _Request] = {}
        self._counts = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "generated_tokens", "finished", "aborted", "steps"), 0
        )

    def add_request(
        self,
        ids: Tokens[int],
        params: SamplingParams,
        sink: Sink,
        *,
        kind: RequestKind = "generate",
        priority: int = 0,
        score_from: int = 1,
        salt: str = "",
    ) -> int:
        if kind == "embed":
            raise InvalidRequest("this engine does not embed")
        if not 0 < len(ids) < self.max_model_len:
            raise InvalidRequest(f"the prompt has {len(ids)} tokens, the model takes {self.max_model_len}", "prompt")
        check_ids(ids, self.vocab_size, "prompt")
        handle = next(self._handles)
        try:
            options = self._kinds.sampling(**_options(params, kind, self.max_model_len - len(ids)), **self._grammar(params))
            prompt = {"prompt_token_ids": list(ids)} | ({"cache_salt": salt} if salt else {})
            self._inner.add_request(str(handle), prompt, options, priority=priority)
        except self._kinds.refusals as error:
            raise InvalidRequest(str(error), asked_by(params.grammar) if params.grammar else None) from None
        self._live[handle] = _Request(sink, kind, params, score_from)
        self._counts["prompt_tokens"] += len(ids)
        return handle

    def abort(self, handle: int, index: int | None = None) -> None:
        self._end(handle, index, "aborted")

    def complete(self, handle: int, index: int) -> None:
        self._end(handle, index, "finished")

    def step(self) -> bool:
        if not self._live:
            return False
        self._counts["steps"] += 1
        for output in self._inner.step():
            request = self._live.get(int(output.request_id))
            if request is not None:
                self._deliver(int(output.request_id), request, output)
        return bool(self._live)

    def stats(self) -> Stats:
        running = min(len(self._live), self._max_rows)
        return Stats(running=running, waiting=len(self._live) - running, max_rows=self._max_rows, **self._counts)

    def drain(self) -> None:
        for handle, request in list(self._live.items()):
            self._end(handle, None, "aborted")
            for index in request.open:
                request.sink(Event(index, finish="abort"))

    def _grammar(self, params: SamplingParams) -> dict[str, Any]:
        if not params.grammar:
            return {}
        kind, _, text = params.grammar.partition(":")
        if kind not in GRAMMARS:
            raise InvalidRequest(f"a grammar of kind {kind!r} is not known", "response_format")
        return {"structured_outputs": self._kinds.structured(**GRAMMARS[kind](text))}

    def _end(self, handle: int, index: int | None, count: str) -> None:
        request = self._live.get(handle)
        if request is None:
            return
        if index is not None:
            request.open.discard(index)  # the other choices go on: vLLM ends them together
        if index is None or not request.open:
            self._inner.abort_request([str(handle)])
            del self._live[handle]
            self._counts[count] += 1

    def _deliver(self, handle: int, request: _Request, output: Any) -> None:
        for choice in output.outputs:
            if choice.index not in request.open:
                continue
            start = request.sent[choice.index]
            tokens = list(choice.token_ids[start:])
            request.sent[choice.index] += len(tokens)
            finish = FINISH.get(choice.finish_reason or "", "error") if choice.finish_reason else None
            if not tokens and finish is None:
                continue
            event = Event(choice.index, [] if request.reads_only else tokens, finish=finish)
            if choice.logprobs is not None and not request.reads_only:
                places = enumerate(tokens, start)
                event.logprobs = [_logprob(token, choice.logprobs[at], request.most) for at, token in places]
            if not request.told:
                request.told = True
                event.cached_tokens = output.num_cached_tokens or 0
                event.prompt_logprobs = _of_prompt(request, output)
                self._counts["cached_tokens"] += event.cached_tokens
            event.stop_reason = choice.stop_reason if choice.stop_reason in request.ends else None
            self._counts["generated_tokens"] += len(event.token_ids)
            if finish is not None:
                request.open.discard(choice.index)
            request.sink(event)
        if not request.open and handle in self._live:
            del self._live[handle]
            self._counts["finished"] += 1


def _options(params: SamplingParams, kind: RequestKind, room: int) -> dict[str, Any]:
    """vLLM generates one token at least; a score's is not told. What chooses the likeliest token is greedy to us."""
    reads_only = _reads_only(params, kind)
    greedy = params.temperature <= 0 or params.top_k == 1 or params.top_p <= 0
    return {
        "n": params.n,
        "max_tokens": 1 if reads_only else min(params.max_tokens or room, room),
        "min_tokens": 0 if reads_only else min(params.min_tokens, room),
        "temperature": 0.0 if greedy else params.temperature,
        "top_k": 0 if greedy else params.top_k,
        "top_p": 1.0 if greedy else params.top_p,
        "min_p": params.min_p,
        "seed": params.seed,
        "stop_token_ids": list(params.stop_token_ids),
        "ignore_eos": params.ignore_eos,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": dict(params.logit_bias) or None,
        "logprobs": params.logprobs,
        "prompt_logprobs": (params.prompt_logprobs or 0) if kind == "score" else params.prompt_logprobs,
        "detokenize": False,
    }


def _of_prompt(request: _Request, output: Any) -> list[Logprob] | None:
    if output.prompt_logprobs is None:
        return None
    ids = output.prompt_token_ids
    told = [
        _logprob(token, values, request.most_of_prompt) for token, values in zip(ids, output.prompt_logprobs, strict=True)
    ]
    return told[request.score_from :] if request.kind == "score" else told


def _reads_only(params: SamplingParams, kind: RequestKind) -> bool:
    return kind == "score" or params.max_tokens == 0


def _logprob(token: int, values: Any, most: int) -> Logprob:
    """From vLLM's mapping of tokens to log-probabilities, which has the token itself beside the best ones."""
    if values is None:
        return Logprob(token, None)
    best = sorted(values.items(), key=lambda pair: -pair[1].logprob)
    top = tuple((other, value.logprob) for other, value in best[:most])
    return Logprob(token, values[token].logprob, top)
