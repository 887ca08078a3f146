"""What runs on GPUs, met on a CPU: steps recorded as graphs, memory that grows, tensors beside their model, device maps.

CUDA's own calls (its graphs, its streams) are all that is left out; these have to be tried on a GPU.
"""

import pytest
import tiny_models
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from flambeau.handlers.engine import cpu, devices, fused, loading
from flambeau.handlers.engine.config import ConfigError, read
from flambeau.handlers.engine.engine import Engine, Limits
from flambeau.handlers.engine.fused import FusedRunner
from flambeau.handlers.engine.kv_cache import BLOCK, KvCache
from flambeau.handlers.engine.scheduler import Chunk, Plan
from flambeau.handlers.engine.sequence import Sequence
from flambeau.handlers.generation import SamplingParams

LENGTH = 3 * BLOCK


class Growing(KvCache):
    """Grows on a CPU as it does on a GPU."""

    def __init__(self, *given):
        super().__init__(*given)
        self.blocks, self.keys, self.values = 0, [], []
        self.reserve(1)


class Tracer:
    """Records a step as the operations it consists of, as a CUDA graph does: whatever Python decides, it decides once."""

    def __init__(self):
        self.recorded = []

    def __call__(self, step, given):
        graph = make_fx(step)(*given)
        self.recorded.append(len(given[0]))
        out = graph(*given).clone()  # one place in memory for all replays

        def play():
            return out.copy_(graph(*given))

        return play


@torch.inference_mode()
def test_recorded_steps_give_what_generate_gives_while_rows_come_and_go_and_memory_grows(monkeypatch):
    monkeypatch.setattr(fused, "KvCache", Growing)
    monkeypatch.setattr(cpu, "product", lambda *_: None)  # its loops are not torch's operations
    tracer = Tracer()
    runner = FusedRunner(tiny_models.model("qwen3"), 8, LENGTH, tracer)
    engine = Engine(runner, Limits(max_rows=8, max_tokens=64), slots=8)
    wanted = [([7 * at + 1] * (5 + 40 * at), 12 + 9 * at) for at in range(7)]
    tokens = {at: [] for at in range(len(wanted))}

    for at, (ids, count) in enumerate(wanted):
        params = SamplingParams(temperature=0, max_tokens=count)
        engine.add_request(ids, params, lambda event, at=at: tokens[at].extend(event.token_ids))
    while engine.step():
        pass

    reference = tiny_models.model("qwen3")
    assert list(tokens.values()) == [tiny_models.generate(reference, *request) for request in wanted]
    assert set(tracer.recorded) == {1, 2, 4, 8}  # rows, padded to a power of two
    assert runner.cache.blocks == 3  # it grew from 1, and what was recorded before was recorded anew


class OneDevice(TorchDispatchMode):
    """What a GPU refuses: an operation on tensors of several devices. `meta` stands for the GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        seen = {one.device.type for one in tensors if one.dim()}
        assert len(seen) < 2 or "copy" in str(function), f"{function} on {seen}"
        return function(*args, **(kwargs or {}))


def row(length, computed, slot):
    made = Sequence(1, 0, list(range(length)), SamplingParams(), print, "generate", (0, 1), 0)
    made.computed, made.slot = computed, slot
    return made


@pytest.mark.parametrize("recorder", [None, tiny_models.unrecorded], ids=["mixed", "fixed"])
@torch.inference_mode()
def test_what_a_step_makes_stands_beside_the_model(recorder):
    runner = FusedRunner(tiny_models.model("qwen3", torch.bfloat16).to("meta"), 4, LENGTH, recorder)
    decode = [row(10, 9, 0), row(BLOCK + 12, BLOCK + 11, 2)]
    chunks = [Chunk(row(30, 0, 1), 0, 20), Chunk(row(30, 5, 3), 5, 20)]

    with OneDevice():
        alone = runner.run(Plan(decode), [0, 1], hidden=False)
        mixed = runner.run(Plan(decode, chunks), [0, 1, 21], hidden=True)
        runner.copy_prefix(2, 3, BLOCK + 5)

    assert alone.logits.shape == (2, 200) and mixed.logits.shape == (3, 200) and mixed.hidden.shape[0] == 2 + 20 + 15
    assert {part.device.type for part in (alone.logits, mixed.logits, mixed.hidden)} == {"meta"}


@pytest.fixture
def eight_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (1000 + gpu, 5000))


@pytest.mark.parametrize(
    ("section", "gpu", "placement"),
    [
        pytest.param({}, 3, {"device_map": {"": 3}}, id="one"),
        pytest.param(
            {"gpu_max_memory": "4.8e10"}, 1, {"device_map": "auto", "max_memory": {1: 48_000_000_000}}, id="one, limited"
        ),
        pytest.param(
            {"num_gpu_per_model": 2}, 6, {"device_map": "balanced", "max_memory": {4: 1004, 5: 1005}}, id="two of eight"
        ),
        pytest.param(
            {"num_gpu_per_model": 4, "per_gpu_mem": 7},
            1,
            {"device_map": "auto", "max_memory": {4: 7, 5: 7, 6: 7, 7: 7}},
            id="four, limited",
        ),
        pytest.param({"num_gpu_per_model": 2}, None, {}, id="a worker without a GPU"),
    ],
)
def test_a_model_goes_to_the_gpus_of_its_worker_and_to_no_others(eight_gpus, section, gpu, placement):
    if "max_memory" in placement:
        placement["max_memory"] = dict.fromkeys(range(8), 0) | placement["max_memory"]

    assert loading.place(read(section), gpu) == placement


def test_more_gpus_than_there_are_are_refused_before_anything_is_loaded(eight_gpus):
    with pytest.raises(ConfigError, match="9 are asked for, this machine has 8"):
        loading.place(read({"num_gpu_per_model": 9}), 0)
    assert devices.group(8, 8, 5) == list(range(8))
