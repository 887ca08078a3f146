"""The engines' numbers under the names that dashboards and autoscalers made for vLLM query; on with `vllm_metrics=true`.

Only translates: names, the labels `model_name` and `engine` (a gauge's worker), and seconds for milliseconds. What our engines
do not tell is left out rather than guessed. Not for: our own names, which are always there.
"""

from dataclasses import dataclass

from .metrics import Family, Labels


@dataclass(frozen=True)
class Alias:
    name: str
    kind: str
    help: str
    scale: float = 1.0
    labels: Labels = ()


SECONDS = 0.001  # ours are in milliseconds
ENDED = "Requests that came to their end."
ALIASES: dict[str, tuple[Alias, ...]] = {
    "LlmRequestsRunning": (Alias("vllm:num_requests_running", "gauge", "Requests that decode."),),
    "LlmRequestsWaiting": (Alias("vllm:num_requests_waiting", "gauge", "Requests that wait for a row."),),
    "LlmKvCacheUsage": (Alias("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1."),),
    "LlmPromptTokens": (
        Alias("vllm:prompt_tokens_total", "counter", "Prompt tokens."),
        Alias("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache."),
    ),
    "LlmCachedPromptTokens": (Alias("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found there."),),
    "LlmGeneratedTokens": (Alias("vllm:generation_tokens_total", "counter", "Tokens generated."),),
    "LlmFinishedRequests": (Alias("vllm:request_success_total", "counter", ENDED),),
    "LlmAbortedRequests": (Alias("vllm:request_success_total", "counter", ENDED, labels=(("finished_reason", "abort"),)),),
    "LlmPreemptions": (Alias("vllm:num_preemptions_total", "counter", "Sequences put back to wait."),),
    "LlmTimeToFirstToken": (
        Alias("vllm:time_to_first_token_seconds", "histogram", "From arrival to the first token.", SECONDS),
    ),
    "LlmInterTokenLatency": (
        Alias("vllm:inter_token_latency_seconds", "histogram", "Between tokens, on a request's average.", SECONDS),
        Alias("vllm:time_per_output_token_seconds", "histogram", "The same by its older name.", SECONDS),
        Alias("vllm:request_time_per_output_token_seconds", "histogram", "The same by its newer name.", SECONDS),
    ),
    "LlmRequestTime": (Alias("vllm:e2e_request_latency_seconds", "histogram", "From arrival to the end.", SECONDS),),
    "LlmQueueTime": (
        Alias("vllm:request_queue_time_seconds", "histogram", "From arrival to the prompt's reading.", SECONDS),
    ),
    "LlmPrefillTime": (Alias("vllm:request_prefill_time_seconds", "histogram", "From there to the first token.", SECONDS),),
    "LlmDecodeTime": (Alias("vllm:request_decode_time_seconds", "histogram", "From the first token to the end.", SECONDS),),
    "LlmInferenceTime": (Alias("vllm:request_inference_time_seconds", "histogram", "Both together.", SECONDS),),
    "LlmStepTokens": (Alias("vllm:iteration_tokens_total", "histogram", "Tokens that a step ran through the model."),),
    "LlmRequestPromptTokens": (Alias("vllm:request_prompt_tokens", "histogram", "Prompt tokens of a request."),),
    "LlmRequestGeneratedTokens": (Alias("vllm:request_generation_tokens", "histogram", "Tokens generated for a request."),),
    "LlmRequestLongestChoice": (
        Alias("vllm:request_max_num_generation_tokens", "histogram", "Tokens of a request's longest choice."),
    ),
}


def as_vllm(families: list[Family]) -> list[Family]:
    made: dict[str, Family] = {}
    for family in families:
        for alias in ALIASES.get(family.name, ()):
            _add(family, alias, made.setdefault(alias.name, Family(alias.name, alias.kind, alias.help)))
    return list(made.values())


def _add(family: Family, alias: Alias, made: Family) -> None:
    for (name, labels), value in family.samples.items():
        suffix = name.removeprefix(family.name)
        scaled = value * alias.scale if suffix in ("", "_sum") else value
        key = (alias.name + suffix, (*_labels(labels, alias.scale), *alias.labels))
        made.samples[key] = made.samples.get(key, 0.0) + scaled


def _labels(labels: Labels, scale: float) -> Labels:
    found = dict(labels)
    named = [("model_name", found.get("ModelName", ""))]
    if "WorkerId" in found:
        named.append(("engine", found["WorkerId"]))
    if "FinishReason" in found:
        named.append(("finished_reason", found["FinishReason"]))
    if "le" in found:
        named.append(("le", found["le"] if found["le"] == "+Inf" else f"{float(found['le']) * scale:g}"))
    return tuple(named)
