from flambeau.handlers.protocol import Metric
from flambeau.management.metrics import Metrics, exposition
from flambeau.management.vllm_metrics import as_vllm

MODEL = [("ModelName", "m"), ("Level", "Model")]


def exposed(*metrics):
    store = Metrics()
    for metric in metrics:
        store.take(metric)
    return exposition(as_vllm(store.families())).splitlines()


def test_counters_and_gauges_have_vllm_s_names_and_label():
    lines = exposed(
        Metric("LlmGeneratedTokens", "counter", "Count", 5.0, MODEL),
        Metric("LlmRequestsRunning", "gauge", "Count", 2.0, MODEL),
    )

    assert 'vllm:generation_tokens_total{model_name="m",} 5.0' in lines
    assert "# TYPE vllm:num_requests_running gauge" in lines
    assert 'vllm:num_requests_running{model_name="m",} 2.0' in lines


def test_times_are_in_seconds_bounds_included():
    lines = exposed(Metric("LlmTimeToFirstToken", "histogram", "ms", 250.0, MODEL))

    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.1",} 0.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.25",} 1.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="m",le="+Inf",} 1.0' in lines
    assert 'vllm:time_to_first_token_seconds_sum{model_name="m",} 0.25' in lines
    assert 'vllm:time_to_first_token_seconds_count{model_name="m",} 1.0' in lines


def test_others_are_left_alone():
    assert exposed(Metric("PredictionTime", "gauge", "ms", 1.0, MODEL)) == []
