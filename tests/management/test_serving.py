import dataclasses

import pytest

from flambeau.archiver.model_config import ModelConfig
from flambeau.management.serving import Registration, decide
from flambeau.management.settings import Settings

USUAL = decide(Registration("m.mar"), ModelConfig(), Settings(), 1)


@pytest.mark.parametrize("odd", [-1, 0])
@pytest.mark.parametrize("field", ["batch_size", "response_timeout", "startup_timeout"])
def test_a_number_that_makes_no_sense_counts_as_not_given(field, odd):
    assert decide(Registration("m.mar", **{field: odd}), ModelConfig(), Settings(), 1) == USUAL


def test_no_delay_is_a_delay_and_less_than_none_is_not_given():
    assert decide(Registration("m.mar", max_batch_delay_ms=0), ModelConfig(), Settings(), 1).max_batch_delay_ms == 0
    assert decide(Registration("m.mar", max_batch_delay_ms=-1), ModelConfig(), Settings(), 1) == USUAL


def test_fewer_than_no_workers_are_none():
    expected = dataclasses.replace(USUAL, min_workers=0, max_workers=0)

    assert decide(Registration("m.mar", initial_workers=-1), ModelConfig(), Settings(), 1) == expected
