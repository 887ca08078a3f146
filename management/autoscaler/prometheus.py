"""What has come in, read from a Prometheus server that watches vLLM: for servers that are not ours.

vLLM counts completions, so arrivals are these and what its queue grew by. A job of which Prometheus knows nothing is an
error: taken for silence, it would cost a model its workers.
"""

import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .observe import Key, Observed

TOKEN_LATENCIES = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")  # newer versions, older ones


class UnknownJob(LookupError):
    """Prometheus has no such metrics; says which job was asked for."""


@dataclass(frozen=True)
class PrometheusObserver:
    url: str
    jobs: Mapping[str, Key]  # the label `job` of each server
    window: str = "1m"
    timeout_seconds: float = 5.0
    fetch: Callable[[str, float], bytes] | None = None  # tests have their own

    def look(self) -> dict[Key, Observed]:
        return {key: self._observed(job) for job, key in self.jobs.items()}

    def _observed(self, job: str) -> Observed:
        label = '{job="%s"}' % job.replace("\\", "\\\\").replace('"', '\\"')  # noqa: UP031 - braces
        completed = self._ask(f"sum(rate(vllm:request_success_total{label}[{self.window}]))")
        waiting = self._ask(f"sum(vllm:num_requests_waiting{label})")
        if completed is None and waiting is None:
            raise UnknownJob(f'{self.url} knows no vllm:* metrics with job="{job}"')
        held = f"vllm:num_requests_running{label} + vllm:num_requests_waiting{label}"
        growth = self._ask(f"sum(deriv(({held})[{self.window}:]))")
        return Observed(
            arrivals_per_second=max((completed or 0.0) + (growth or 0.0), 0.0),
            tokens_in=self._ratio("vllm:prompt_tokens_total", "vllm:request_success_total", label),
            tokens_out=self._ratio("vllm:generation_tokens_total", "vllm:request_success_total", label),
            ttft=self._milliseconds("vllm:time_to_first_token_seconds", label),
            itl=next(filter(None, (self._milliseconds(name, label) for name in TOKEN_LATENCIES)), None),
            waiting=waiting or 0.0,
            in_flight=self._ask(f"sum(vllm:num_requests_running{label})") or 0.0,
        )

    def _milliseconds(self, histogram: str, label: str) -> float | None:
        seconds = self._ratio(f"{histogram}_sum", f"{histogram}_count", label)
        return None if seconds is None else seconds * 1000

    def _ratio(self, total: str, count: str, label: str) -> float | None:
        amount, times = (self._ask(f"sum(increase({name}{label}[{self.window}]))") for name in (total, count))
        return amount / times if amount is not None and times else None

    def _ask(self, query: str) -> float | None:
        """The value of a query; None when there is none, or none that is a number."""
        address = f"{self.url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        answer = (self.fetch or _get)(address, self.timeout_seconds)
        try:
            results = json.loads(answer)["data"]["result"]
            value = float(results[0]["value"][1]) if results else float("nan")
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"{self.url} does not answer as Prometheus does") from None
        return value if abs(value) < float("inf") else None


def _get(url: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return bytes(response.read())
