from pathlib import Path

from flambeau.handlers.protocol import Metric
from flambeau.management.metrics import Metrics, exposition
from flambeau.management.vllm_metrics import ALIASES, as_vllm

MODEL = [("ModelName", "m"), ("Level", "Model")]


def exposed(*metrics):
    store = Metrics()
    for metric in metrics:
        store.take(metric)
    return exposition(as_vllm(store.families())).splitlines()


def test_counters_and_gauges_have_vllm_s_names_and_label():
    lines = exposed(
        Metric("LlmGeneratedTokens", "counter", "Count", 5.0, MODEL),
        *(
            Metric("LlmRequestsRunning", "gauge", "Count", 2.0, [*MODEL, ("WorkerId", worker)])
            for worker in ("9000", "9001")
        ),
    )

    assert 'vllm:generation_tokens_total{model_name="m",} 5.0' in lines
    assert "# TYPE vllm:num_requests_running gauge" in lines
    for worker in ("9000", "9001"):
        assert f'vllm:num_requests_running{{model_name="m",engine="{worker}",}} 2.0' in lines


def test_times_are_in_seconds_bounds_included():
    lines = exposed(Metric("LlmTimeToFirstToken", "histogram", "ms", 250.0, MODEL))

    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.1",} 0.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.25",} 1.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="+Inf",} 1.0' in lines
    assert 'vllm:time_to_first_token_seconds_sum{model_name="m",} 0.25' in lines
    assert 'vllm:time_to_first_token_seconds_count{model_name="m",} 1.0' in lines


def test_ends_are_counted_by_their_reason_in_one_family():
    lines = exposed(
        Metric("LlmFinishedRequests", "counter", "Count", 2.0, [*MODEL, ("FinishReason", "stop")]),
        Metric("LlmFinishedRequests", "counter", "Count", 1.0, [*MODEL, ("FinishReason", "length")]),
        Metric("LlmAbortedRequests", "counter", "Count", 4.0, MODEL),
    )

    assert lines.count("# TYPE vllm:request_success_total counter") == 1
    for reason, count in (("stop", 2.0), ("length", 1.0), ("abort", 4.0)):
        assert f'vllm:request_success_total{{model_name="m",finished_reason="{reason}",}} {count}' in lines


GRAPHED = """
vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:prompt_tokens_total
vllm:generation_tokens_total vllm:request_success_total vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total
vllm:num_preemptions_total vllm:time_to_first_token_seconds vllm:inter_token_latency_seconds
vllm:e2e_request_latency_seconds vllm:request_queue_time_seconds vllm:request_prefill_time_seconds
vllm:request_decode_time_seconds vllm:request_inference_time_seconds vllm:request_prompt_tokens
vllm:request_generation_tokens vllm:request_max_num_generation_tokens
"""


def test_what_vllms_own_dashboard_queries_is_there_and_documented():
    names = {alias.name for aliases in ALIASES.values() for alias in aliases}
    words = (Path(__file__).parents[2] / "docs" / "llm-apis.md").read_text()

    assert set(GRAPHED.split()) <= names
    assert [name for name in names if f"`{name}`" not in words] == []


def test_others_are_left_alone():
    assert exposed(Metric("PredictionTime", "gauge", "ms", 1.0, MODEL)) == []
