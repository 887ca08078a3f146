from flambeau.management.autoscaler.observe import Both, Observed, Observer
from flambeau.management.autoscaler.samples import parse


def exposition(arrived, completed, prompt=0, generated=0, finished=0, waiting=0):
    label = 'model_name="chat",model_version="1.0",hostname="h",'
    return f"""
# HELP flambeau_requests_arrived_total Requests
# TYPE flambeau_requests_arrived_total counter
flambeau_requests_arrived_total{{{label}}} {arrived}
flambeau_requests_completed_total{{{label}}} {completed}
ts_inference_latency_microseconds{{{label}}} {completed * 20_000}
flambeau_requests_waiting{{{label}}} {waiting}
flambeau_requests_in_flight{{{label}}} 2
LlmPromptTokens{{ModelName="chat",Level="Model",Hostname="h",}} {prompt}
LlmGeneratedTokens{{ModelName="chat",Level="Model",Hostname="h",}} {generated}
LlmFinishedRequests{{ModelName="chat",Level="Model",Hostname="h",}} {finished}
LlmInterTokenLatency_bucket{{ModelName="chat",le="+Inf",}} {finished * 10}
LlmInterTokenLatency_sum{{ModelName="chat",}} {finished * 120}
LlmInterTokenLatency_count{{ModelName="chat",}} {finished * 10}
"""


def test_rates_are_those_of_arrivals_between_two_looks():
    texts = iter([exposition(100, 50, 1000, 500, 10), exposition(160, 70, 3000, 1500, 30, waiting=7)])
    clock = iter([0.0, 10.0])
    observer = Observer(lambda: next(texts), lambda: next(clock))

    first, second = observer.look()["chat", "1.0"], observer.look()["chat", "1.0"]

    assert first.arrivals_per_second == 0
    assert second.arrivals_per_second == 6
    assert (second.tokens_in, second.tokens_out) == (100, 50)
    assert second.itl == 12
    assert second.ttft == 20
    assert (second.waiting, second.in_flight) == (7, 2)


def test_a_restarted_process_does_not_make_rates_negative():
    texts = iter([exposition(100, 50), exposition(10, 5)])
    clock = iter([0.0, 10.0])
    observer = Observer(lambda: next(texts), lambda: next(clock))

    observer.look()

    assert observer.look()["chat", "1.0"].arrivals_per_second == 0


def test_labels_may_hold_anything():
    (sample,) = parse('x{a="with \\"quotes\\", commas",b="line\\n",} 1e3 1234567\nnot a sample\nx{a="1"} word')

    assert sample.labels == {"a": 'with "quotes", commas', "b": "line\n"}
    assert sample.value == 1000


def test_of_two_sources_the_second_counts():
    class Source:
        def __init__(self, **rates):
            self.rates = rates

        def look(self):
            return {(model, ""): Observed(rate) for model, rate in self.rates.items()}

    looked = Both(Source(a=1, b=2), Source(b=3)).look()

    assert {model: seen.arrivals_per_second for (model, _), seen in looked.items()} == {"a": 1, "b": 3}
