"""The loops give what torch's operations give, for both types of numbers, alone and shared between threads."""

import random
import sys

import pytest
import tiny_models
import torch

from flambeau.handlers.engine import cpu
from flambeau.handlers.engine.attention import Attention
from flambeau.handlers.engine.engine import Engine, Limits
from flambeau.handlers.engine.fused import FusedRunner
from flambeau.handlers.engine.kv_cache import BLOCK, KvCache, KvShape
from flambeau.handlers.engine.operations import Operations
from flambeau.handlers.engine.packed import pack
from flambeau.handlers.generation import SamplingParams

TYPES = pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request, monkeypatch):
    """Even short loops are shared."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    cpu._threads.cache_clear()
    yield request.param
    cpu._threads().shutdown()
    cpu._threads.cache_clear()


def near_to(found, wanted, near):
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found.float(), wanted.float(), rtol=near, atol=near)


@TYPES
def test_operations_are_those_of_torch(threads, dtype, near):
    torch.manual_seed(0)
    loops, plain = cpu.operations(torch.device("cpu"), dtype, 1e-6), Operations(1e-6)
    assert isinstance(loops, cpu.CpuOperations)
    h, more, weight = torch.randn(7, 96).to(dtype), torch.randn(7, 96).to(dtype), torch.randn(96).to(dtype)
    ours, theirs = h.clone(), h.clone()
    near_to(loops.add_norm(ours, more, weight), plain.add_norm(theirs, more, weight), near)
    assert torch.equal(ours, theirs)
    x = 40 * torch.randn(7, 200).to(dtype)
    near_to(loops.gate(x), plain.gate(x.clone()), near)
    heads, cos, sin = torch.randn(7, 5, 32).to(dtype), torch.randn(7, 32).to(dtype), torch.randn(7, 32).to(dtype)
    kept = heads.clone()
    near_to(loops.rotate(heads, 4, cos, sin), plain.rotate(kept, 4, cos, sin), near)
    assert torch.equal(heads[:, 4], kept[:, 4])


@torch.inference_mode()
@TYPES
@pytest.mark.parametrize(("queries", "dim"), [(2, 16), (6, 24), (8, 80), (14, 128), (26, 196)])
def test_attention_is_that_of_torch_for_rows_in_any_slots(threads, dtype, near, queries, dim):
    torch.manual_seed(0)
    chance = random.Random(0)
    shape, slots = KvShape(1, 2, dim), sorted(chance.sample(range(9), 6))
    positions = [0, BLOCK - 1, BLOCK, 3 * BLOCK - 1, *(chance.randrange(3 * BLOCK) for _ in range(2))]
    found = []
    for looped in (True, False):
        cache = KvCache(shape, 9, 3 * BLOCK, dtype, torch.device("cpu"))
        torch.manual_seed(1)
        for kept in (*cache.keys, *cache.values):
            kept.copy_(torch.randn(kept.shape))
        attention = Attention(cache)
        if not looped:
            attention._loop = None
        attention.prepare(slots, positions, [])
        rows = torch.randn(6, queries + 4, dim).to(dtype)
        found.append((attention(0, rows[:, :queries], rows[:, queries:-2], rows[:, -2:], dim**-0.5), cache))
    (ours, written), (theirs, expected) = found
    near_to(ours, theirs, near)
    assert torch.equal(written.keys[0], expected.keys[0])
    assert torch.equal(written.values[0], expected.values[0])


def products(dtype, columns, depth, bias):
    torch.manual_seed(0)
    weight = torch.randn(columns, depth).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 32)
    return weight, cpu.product(packed, weight.shape, bias)


@torch.inference_mode()
@TYPES
@pytest.mark.parametrize(("columns", "depth"), [(64, 32), (200, 96), (320, 2080)])
def test_rows_times_a_packed_matrix(monkeypatch, threads, dtype, near, columns, depth):
    monkeypatch.setattr(cpu, "THREADS", threads)
    bias = torch.randn(columns).to(dtype)
    weight, ours = products(dtype, columns, depth, bias)
    if ours is None:
        pytest.skip("this processor, or this torch, packs in another way")
    for rows in (1, 5, 6, 7, 256, 259):
        x = torch.randn(rows, depth).to(dtype) / depth**0.5
        near_to(ours(x), torch.nn.functional.linear(x, weight, bias), 5 * near)


@torch.inference_mode()
def test_a_matrix_that_lies_in_another_way_is_left_to_torch(monkeypatch):
    if products(torch.float32, 128, 64, None)[1] is None:
        pytest.skip("this processor, or this torch, packs in another way")
    monkeypatch.setattr(cpu, "COLUMNS", 128)  # as many bytes, in another order
    weight, ours = products(torch.float32, 128, 64, None)
    assert ours is None
    layer, x = pack(weight), torch.randn(2, 3, 64)
    near_to(layer(x), torch.nn.functional.linear(x, weight), 1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 48, 300])
def test_a_packed_layer_takes_any_shape(rows):
    weight, bias = torch.randn(96, 64), torch.randn(96)
    layer, x = pack(weight, bias), torch.randn(1, rows, 64)
    near_to(layer(x), torch.nn.functional.linear(x, weight, bias), 1e-4)
    apart = torch.randn(64, rows).T
    near_to(layer(apart), torch.nn.functional.linear(apart, weight, bias), 1e-4)


def test_what_is_not_a_number_stays_visible():
    """A broken model shows, instead of giving plausible tokens."""
    loops = cpu.operations(torch.device("cpu"), torch.bfloat16, 1e-6)
    h = torch.ones(1, 32, dtype=torch.bfloat16)
    h[0, 3] = float("nan")
    assert loops.add_norm(h, torch.zeros_like(h), torch.ones(32, dtype=torch.bfloat16)).isnan().all()


@torch.inference_mode()
def test_without_numba_the_tokens_are_the_same(monkeypatch, caplog):
    def tokens():
        engine = Engine(FusedRunner(tiny_models.model("llama"), 4, 256), Limits(), slots=4)
        got = {}
        for seed in range(3):
            params, ids = SamplingParams(temperature=0, max_tokens=12), [seed + 3] * (5 + seed)
            engine.add_request(ids, params, lambda event, seed=seed: got.setdefault(seed, []).extend(event.token_ids))
        while engine.step():
            pass
        return got

    with_loops = tokens()
    monkeypatch.setitem(sys.modules, "flambeau.handlers.engine.loops", None)
    cpu.find.cache_clear()
    caplog.set_level("INFO", "flambeau.handlers.engine.cpu")
    try:
        assert tokens() == with_loops
    finally:
        cpu.find.cache_clear()
    assert "numba is not installed" in caplog.text
