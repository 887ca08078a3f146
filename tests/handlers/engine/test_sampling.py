from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from flambeau.handlers.engine.sampling import best, choose, uniform
from flambeau.handlers.generation import SamplingParams

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03]))


def row(seed, **params):
    return SimpleNamespace(params=SamplingParams(**params), seed=seed, generated=0, ids=[0], prompt_length=1, grammar=None)


def draws(count=2000, **params):
    rows = [row(seed, **params) for seed in range(count)]
    return Counter(choose(LOGITS.repeat(count, 1), rows, []))


def test_chance_is_even_and_differs_between_seeds_and_tokens():
    values = [uniform(seed, index) for seed in range(100) for index in range(100)]

    assert min(values) >= 0 and max(values) < 1 and len(set(values)) == 10000
    assert sum(values) / 10000 == pytest.approx(0.5, abs=0.01)
    assert sum(value < 0.1 for value in values) == pytest.approx(1000, rel=0.1)


def test_tokens_come_as_often_as_they_are_likely():
    counts = draws(temperature=1.0)

    assert [counts[token] / 2000 for token in range(5)] == pytest.approx([0.5, 0.25, 0.15, 0.07, 0.03], abs=0.03)


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        pytest.param({"top_k": 2}, {0, 1}, id="top_k"),
        pytest.param({"top_k": 1}, {0}, id="top_k 1 is greedy"),
        pytest.param({"top_p": 0.7}, {0, 1}, id="top_p, with the one that reaches it"),
        pytest.param({"top_p": 0.0}, {0}, id="top_p 0 is greedy"),
        pytest.param({"top_p": 0.6, "top_k": 4}, {0, 1}, id="top_p of what top_k left"),
        pytest.param({"min_p": 0.2}, {0, 1, 2}, id="min_p"),
        pytest.param({"temperature": 0.0}, {0}, id="temperature 0"),
        pytest.param({"temperature": 0.01}, {0}, id="a low temperature"),
        pytest.param({"temperature": 1e-45}, {0}, id="a temperature that is next to nothing"),
        pytest.param({"temperature": 100.0}, {0, 1, 2, 3, 4}, id="a high temperature"),
        pytest.param({"top_k": 2000}, {0, 1, 2, 3, 4}, id="top_k beyond the vocabulary"),
        pytest.param({"logit_bias": {0: -100.0, 4: 100.0}}, {4}, id="biases"),
    ],
)
def test_filters_leave_these_tokens(params, tokens):
    assert set(draws(**params)) == tokens


def test_a_row_does_not_depend_on_the_filters_of_others():
    others = [row(1, top_k=2), row(2, top_p=0.4), row(3), row(4, temperature=0.0), row(5, top_k=4, top_p=0.9)]
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    for params in ({"top_k": 10}, {"top_p": 0.9}, {}, {"min_p": 0.02}):
        mine = row(77, **params)
        assert choose(logits, [*others, mine], [])[5] == choose(logits[5:], [mine], [])[0]


@pytest.mark.parametrize("size", [pytest.param(1024, id="by blocks"), pytest.param(1000, id="as it is")])
def test_the_best_token_is_the_first_of_equals(size):
    logits = torch.randn(7, size).round_(decimals=1)

    assert best(logits).tolist() == logits.argmax(dim=-1).tolist()
