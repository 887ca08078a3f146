import pytest
from text_fakes import run, send, start

from flambeau.handlers.base import Request
from flambeau.handlers.engine.interface import Stats
from flambeau.handlers.generation import GenerationRequest, SamplingParams
from flambeau.handlers.metrics import Metrics
from flambeau.handlers.protocol import RequestHead
from flambeau.handlers.text_generation import TextGeneration
from flambeau.handlers.text_metrics import TextMetrics


class Engine:
    def stats(self) -> Stats:
        return Stats(running=3, generated_tokens=7)


def test_what_an_engine_tells_is_taken_by_the_workers_store():
    store = Metrics("chat")
    clock = iter(range(100))
    metrics = TextMetrics(Engine(), store, lambda: float(next(clock)), worker_id="9000")
    watch = metrics.watch(Request(1, RequestHead("generate", "1", []), memoryview(b""), 0.0))

    metrics.look(busy=True)
    watch.saw(1)
    watch.saw(1)
    watch.ended("stop")

    kinds = {metric.name: metric.kind for metric in store.pending}
    assert kinds["LlmGeneratedTokens"] == "counter"
    assert kinds["LlmRequestsRunning"] == "gauge"
    assert all(("WorkerId", "9000") in metric.dimensions for metric in store.pending if metric.kind == "gauge")
    assert kinds["LlmTimeToFirstToken"] == kinds["LlmInterTokenLatency"] == "histogram"


def test_each_step_tells_how_many_tokens_it_ran():
    class Stepping:
        computed = 0

        def stats(self) -> Stats:
            return Stats(computed_tokens=self.computed)

    engine, store = Stepping(), Metrics("chat")
    metrics = TextMetrics(engine, store, lambda: 0.0)
    for engine.computed in (256, 256, 260):
        metrics.look(busy=True)

    assert [metric.value for metric in store.pending if metric.name == "LlmStepTokens"] == [256, 4]


def test_each_choice_has_its_own_time_between_tokens():
    store, now = Metrics("chat"), [0.0]
    watch = TextMetrics(Engine(), store, lambda: now[0]).watch(
        Request(1, RequestHead("generate", "1", []), memoryview(b""), 0.0)
    )
    for step in range(1, 4):
        for choice in (0, 1):
            now[0] = step + choice / 2
            watch.saw(1, choice=choice)
    now[0] = 10.0  # the end is told later than the last token comes

    watch.ended("stop")

    between = [metric.value for metric in store.pending if metric.name == "LlmInterTokenLatency"]
    assert between == [1000.0, 1000.0]


def test_an_engine_counts_its_tokens_and_times_its_requests(tmp_path):
    model = start(TextGeneration, tmp_path, engine="mock", mock={"steps_per_second": 0})
    metrics = Metrics("m")
    model.metrics._metrics = metrics

    run(model, send(model, "generate", GenerationRequest(prompt="abc", sampling=SamplingParams(max_tokens=5))))

    told = {}
    for metric in metrics.drain():
        told[metric.name] = told.get(metric.name, 0) + (metric.value if metric.kind == "counter" else 0)
    assert told["LlmPromptTokens"] == 3 and told["LlmGeneratedTokens"] == 5 and told["LlmFinishedRequests"] == 1
    assert {
        "LlmTimeToFirstToken",
        "LlmInterTokenLatency",
        "LlmRequestTime",
        "LlmRequestsRunning",
        "LlmKvCacheUsage",
        "LlmQueueTime",
        "LlmPrefillTime",
        "LlmDecodeTime",
        "LlmInferenceTime",
        "LlmRequestPromptTokens",
        "LlmRequestGeneratedTokens",
    } <= set(told)


@pytest.mark.parametrize(("asked", "reason"), [({"max_tokens": 5}, "length"), ({"stop": ("a", " ", "e", "b")}, "stop")])
def test_why_a_request_ended_is_counted(tmp_path, asked, reason):
    model = start(TextGeneration, tmp_path, engine="mock", mock={"steps_per_second": 0})
    model.metrics._metrics = metrics = Metrics("m")
    sampling = SamplingParams(**{"max_tokens": 200, "n": 3} | asked)

    run(model, send(model, "generate", GenerationRequest(prompt="abc", sampling=sampling)))

    (counted,) = [metric for metric in metrics.drain() if metric.name == "LlmFinishedRequests"]
    assert counted.value == 1 and ("FinishReason", reason) in counted.dimensions


def test_the_longest_choice_is_told():
    store = Metrics("chat")
    watch = TextMetrics(Engine(), store, lambda: 1.0).watch(
        Request(1, RequestHead("generate", "1", []), memoryview(b""), 0.0)
    )
    for choice, tokens in ((0, 2), (1, 1), (1, 3), (0, 1)):
        watch.saw(tokens, choice=choice)

    watch.ended("length")

    assert [metric.value for metric in store.drain() if metric.name == "LlmRequestLongestChoice"] == [4]


def test_a_requests_time_begins_in_the_models_queue():
    store = Metrics("chat")
    metrics = TextMetrics(Engine(), store, lambda: 100.0)

    metrics.watch(Request(1, RequestHead("generate", "1", [], waited_seconds=2.0), memoryview(b""), 97.0)).saw(1, 98.0)

    told = {metric.name: metric.value for metric in store.drain()}
    assert told == {"LlmTimeToFirstToken": 5000, "LlmQueueTime": 3000, "LlmPrefillTime": 2000}
