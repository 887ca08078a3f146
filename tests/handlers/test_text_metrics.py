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
    metrics = TextMetrics(Engine(), store, lambda: float(next(clock)))
    watch = metrics.watch(Request(1, RequestHead("generate", "1", []), memoryview(b""), 0.0))

    metrics.look(busy=True)
    watch.saw(1)
    watch.saw(1)
    watch.done()

    kinds = {metric.name: metric.kind for metric in store.pending}
    assert kinds["LlmGeneratedTokens"] == "counter"
    assert kinds["LlmRequestsRunning"] == "gauge"
    assert kinds["LlmTimeToFirstToken"] == kinds["LlmInterTokenLatency"] == "histogram"


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
    } <= set(told)
