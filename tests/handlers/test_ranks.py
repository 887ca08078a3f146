"""A model in several processes: each runs every batch, in step; the first one answers."""

import pytest

from .worker_client import WorkerProcess, config_of, running, until

TWO = {"parallelType": "tp", "torchrun": {"nproc-per-node": 2, "OMP_NUMBER_THREADS": 1}}

SUM = """
import os
import torch
import torch.distributed as dist
from flambeau.handlers import PredictionException

class Sum:
    def initialize(self, context):
        dist.init_process_group("gloo")
        self.rank = dist.get_rank()
        open(f"rank{self.rank}", "w").write(str(os.getpid()))

    def handle(self, rows, context):
        if any(row["body"] == "refuse" for row in rows):
            raise PredictionException("no", 400)
        return [self.parts(row["body"]) if row["body"] < 0 else self.sum(row["body"]) for row in rows]

    def sum(self, number):
        total = torch.tensor([float(number + self.rank)])
        dist.all_reduce(total)
        return total.tolist()

    def parts(self, number):
        for _ in range(-number):
            yield self.sum(1)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ranks_compute_together_and_go_together(tmp_path):
    with running(config_of(tmp_path, SUM, model_yaml=TWO)) as worker:
        peer = worker.peer
        assert peer.ask(b"5").json() == [11.0]
        assert (peer.ask(b'"refuse"').status, peer.ask(b"5").json()) == (400, [11.0])
        assert peer.ask(b"-3").parts == [b"[\n  3.0\n]"] * 3

        id = peer.send(b"-200")  # whose client leaves, while the ranks go on in step
        peer.frame()
        peer.cancel(id)
        assert peer.answer().cut == "cancelled"
        assert peer.ask(b"7").json() == [15.0]

        follower = int((tmp_path / "rank1").read_text())
        assert alive(follower)
        worker.process.kill()
        until(lambda: not alive(follower), "the other rank's end")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_can_not_load_is_the_models_failure(tmp_path, rank):
    code = f"""
import os
def handle(rows, context):
    if os.environ["RANK"] == "{rank}":
        raise RuntimeError("rank {rank} can't")
"""
    worker = WorkerProcess(config_of(tmp_path, code, model_yaml=TWO))

    failure = worker.loaded()

    assert (failure.phase, failure.message) == ("initialize", f"rank {rank} can't")
    assert worker.wait() == 1
    worker.end()
