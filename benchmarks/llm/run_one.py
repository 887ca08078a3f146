"""One engine on one workload in a process of its own; prints a line of JSON."""

import argparse
import itertools
import json
import resource
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("engine", "model", "dtype", "workload", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--requests", type=int, default=0)
    given = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    import models
    from engines import ENGINES, Clock
    from workload import requests

    model = models.load(given.model, Path(given.folder), given.dtype, given.device)
    wanted = requests(models.SHAPES[given.model]["vocab_size"], given.workload)
    wanted = wanted[: given.requests or len(wanted)]
    clock = Clock()
    times = ENGINES[given.engine](model, wanted, clock)
    assert [len(each) for each in times] == [request.tokens for request in wanted], "tokens are missing"
    print(json.dumps(summary(times, [request.arrival for request in wanted])))


def summary(times: list[list[float]], arrivals: list[float]) -> dict[str, float]:
    first = sorted(each[0] - arrival for each, arrival in zip(times, arrivals, strict=True))
    between = sorted(after - before for each in times for before, after in itertools.pairwise(each))
    return {
        "rate": sum(map(len, times)) / max(each[-1] for each in times),
        "ttft_p50": first[len(first) // 2],
        "ttft_p99": first[int(len(first) * 0.99)],
        "itl_p50": between[len(between) // 2],
        "itl_p99": between[int(len(between) * 0.99)],
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
