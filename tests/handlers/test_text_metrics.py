from flambeau.handlers.base import Request
from flambeau.handlers.engine.interface import Stats
from flambeau.handlers.generation import GenerationEvent
from flambeau.handlers.metrics import Metrics
from flambeau.handlers.protocol import RequestHead
from flambeau.handlers.text_metrics import TextMetrics


class Engine:
    def stats(self) -> Stats:
        return Stats(running=3, generated_tokens=7)


def test_what_an_engine_tells_is_taken_by_the_workers_store():
    store = Metrics("chat")
    clock = iter(range(100))
    metrics = TextMetrics(Engine(), store, lambda: float(next(clock)))
    watch = metrics.watch(Request(1, RequestHead("generate", "1", []), memoryview(b""), 0.0))

    metrics.look()
    watch.saw(GenerationEvent(token_ids=[1]))
    watch.saw(GenerationEvent(token_ids=[2]))

    kinds = {metric.name: metric.kind for metric in store.pending}
    assert kinds["LlmGeneratedTokens"] == "counter"
    assert kinds["LlmRequestsRunning"] == "gauge"
    assert kinds["LlmTimeToFirstToken"] == kinds["LlmInterTokenLatency"] == "histogram"
