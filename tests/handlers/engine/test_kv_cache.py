import sys

import psutil
import pytest
import torch

from flambeau.handlers.engine.kv_cache import BLOCK, KvCache, KvShape

CPU = torch.device("cpu")


def test_memory_is_used_as_far_as_texts_reach():
    before = psutil.Process().memory_info().rss

    cache = KvCache(KvShape(layers=2, heads=8, dim=64), slots=40, max_length=32768, dtype=torch.bfloat16, device=CPU)
    cache.write_chunk(0, 3, 0, torch.ones(200, 8, 64), torch.ones(200, 8, 64))

    assert cache.values[0].nbytes > 10**9
    assert psutil.Process().memory_info().rss - before < 10**8


def test_what_is_written_is_read_across_blocks():
    cache = KvCache(KvShape(layers=1, heads=2, dim=4), slots=3, max_length=3 * BLOCK, dtype=torch.float32, device=CPU)
    k, v = torch.randn(BLOCK + 20, 2, 4), torch.randn(BLOCK + 20, 2, 4)

    cache.write_chunk(0, 1, 10, k, v)
    cache.copy_prefix(1, 2, BLOCK + 30)

    for slot in (1, 2):
        keys, values = cache.read(0, slot, BLOCK + 30)
        assert torch.equal(keys[:, 10:], k.transpose(0, 1)) and torch.equal(values[:, 10:], v.transpose(0, 1))
        assert not keys[:, :10].any()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory stays taken")
def test_what_is_given_back_is_free_and_reads_as_zeros_and_neighbours_keep_theirs():
    cache = KvCache(KvShape(layers=2, heads=8, dim=64), slots=8, max_length=4096, dtype=torch.float32, device=CPU)
    cache.give_back(0, 0, 1)
    for slot in range(4):
        for layer in range(2):
            cache.write_chunk(layer, slot, 0, torch.ones(4000, 8, 64), torch.ones(4000, 8, 64))
    before = psutil.Process().memory_info().rss

    cache.give_back(1, 0, 4000)
    cache.give_back(2, 200, 4000)

    freed = before - psutil.Process().memory_info().rss
    one = 2 * 2 * 4096 * 8 * 64 * 4
    assert 1.8 * one < freed < 2.1 * one
    for slot, kept in ((0, 4000), (1, 0), (2, 2 * BLOCK), (3, 4000)):
        keys, values = cache.read(1, slot, 4000)
        assert bool(keys[:, :kept].all()) and not keys[:, kept:].any()
        assert bool(values[:, :kept].all()) and not values[:, kept:].any()
