"""The promises: ratios to peers in the same run, and what a miss looks like."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from load import Load

Results = dict[tuple[str, str, int], list[Load]]  # (case, peer, connections) → one per round


@dataclass(frozen=True)
class Gate:
    words: str
    wanted: float
    found: float | None  # None: not measured
    at_most: bool = False
    timed: bool = True  # what a busy machine spoils

    @property
    def passed(self) -> bool | None:
        if self.found is None:
            return None
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


CALM = 0.1  # of the machine taken by others


def calmest(loads: list[Load]) -> list[Load]:
    """Those of calm moments; on a busy machine the calmest third."""
    third = -(-len(loads) // 3)
    return sorted(loads, key=lambda load: load.others)[: max(third, sum(load.others <= CALM for load in loads))]


def median_rate(results: Results, case: str, peer: str, connections: int) -> float | None:
    loads = calmest(results.get((case, peer, connections), []))
    return median(load.per_second for load in loads) if loads else None


def median_p50(results: Results, case: str, peer: str, connections: int) -> float | None:
    loads = calmest(results.get((case, peer, connections), []))
    return median(load.p50_seconds for load in loads) if loads else None


def ratio(results: Results, case: str, peer: str, connections: int, own: str = "flambeau") -> float | None:
    ours, theirs = median_rate(results, case, own, connections), median_rate(results, case, peer, connections)
    return ours / theirs if ours and theirs else None


def gates(results: Results, pss_bytes: float | None) -> Iterator[Gate]:
    yield from throughput(results, "flambeau", "")
    yield from throughput(results, "flambeau-tokens", "with tokens, ")
    batched, plain = median_p50(results, "echo-b8", "flambeau", 1), median_p50(results, "echo", "flambeau", 1)
    yield Gate(
        "p50 at c=1, batchSize 8 and maxBatchDelay 100 ms: × unbatched",
        1.5,
        batched / plain if batched and plain else None,
        at_most=True,
    )
    memory = pss_bytes / 1e6 if pss_bytes else None
    yield Gate("server processes with one echo worker, MB PSS", 120.0, memory, at_most=True, timed=False)


def throughput(results: Results, own: str, prefix: str) -> Iterator[Gate]:
    for peer, at_one, above, case in (
        ("mosec", 1.0, 2.5, "echo"), ("litserve", 4.0, 15.0, "echo"), ("torchserve", 4.0, 12.0, "echo"), ("mosec", 1.5, 2.0, "mlp"),
    ):  # fmt: skip
        for connections in (1, 8, 32, 64):
            wanted = at_one if connections == 1 else above
            found = ratio(results, case, peer, connections, own)
            yield Gate(f"{prefix}{case}, c={connections}: × {peer}", wanted, found)
    yield Gate(f"{prefix}batched echo, c=64: × mosec-orjson", 1.2, ratio(results, "echo-b8", "mosec-orjson", 64, own))
    yield Gate(f"{prefix}streams of 64 chunks, c=32: × mosec", 10.0, ratio(results, "stream", "mosec", 32, own))
