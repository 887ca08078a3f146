"""extra_inputs and bodies: what is declared, what is taken, what is refused."""

import pytest

from flambeau.frontend import sax_inputs
from flambeau.frontend.sax_inputs import Declared
from flambeau.management.cell.errors import SaxError

LM = Declared()


def merged(extra, model=LM):
    return sax_inputs.extra_inputs({"extra_inputs": extra}, model)


@pytest.mark.parametrize("extra", [None, {}, {"temperature": None}])
def test_absent_and_null_mean_the_default(extra):
    assert merged(extra) == dict(LM.extra_inputs)


def test_declared_keys_are_taken_as_they_are_declared():
    model = Declared(extra_inputs={"temperature": 1.0, "eos_id": [0, 0], "style": "plain"})

    assert merged({"temperature": 0, "eos_id": [1, 2], "style": "x"}, model) == {
        "temperature": 0,
        "eos_id": [1, 2],
        "style": "x",
    }


@pytest.mark.parametrize("extra", [
    [1], "x", {"unknown": 1}, {"temperature": "hot"}, {"temperature": [1]}, {"temperature": True}, {"stop": 3},
    {"per_example_max_decode_steps": 1.5}, {"temperature": float("nan")}, {"temperature": 10**400}, {"seed": 2**63},
])  # fmt: skip
def test_what_does_not_fit_is_refused(extra):
    with pytest.raises(SaxError) as refused:
        merged(extra)

    assert refused.value.status == 400


@pytest.mark.parametrize("extra", [
    {"temperature": -1.0}, {"per_example_top_p": 1.5}, {"per_example_max_decode_steps": 0}, {"per_example_max_decode_steps": 10**9},
    {"per_example_top_k": -1}, {"per_example_top_k": 41},
])  # fmt: skip
def test_bounds_are_checked(extra):
    with pytest.raises(SaxError):
        sax_inputs.generation("x", dict(LM.extra_inputs) | extra, Declared(top_k=40), stream=False)


def test_a_generation_asks_for_the_score_of_each_token():
    wanted = sax_inputs.generation("x", dict(LM.extra_inputs) | {"stop": "."}, Declared(samples=2), stream=False)

    assert (wanted.sampling.n, wanted.sampling.logprobs, wanted.sampling.stop) == (2, 0, (".",))


@pytest.mark.parametrize(("value", "number"), [(1, 1), ("1", 1), (1.0, 1), ("-1", -1), (" +2 ", 2)])
def test_whole_numbers_come_in_many_clothes(value, number):
    assert sax_inputs.whole({"replicas": value}, "replicas") == number


@pytest.mark.parametrize(
    "value", [1.5, "x", None, [1], {}, True, float("inf"), "", "--5", "+-5", "5-", "٥", "9" * 5000, 1e300, 10**400]
)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(SaxError):
        sax_inputs.whole({"replicas": value}, "replicas")


def test_a_body_wins_over_the_query_string():
    assert sax_inputs.fields(b'{"model": "a"}', {"model": "b", "x": "1"}) == {"model": "a", "x": "1"}


@pytest.mark.parametrize("score", [float("-inf"), float("nan")])
def test_scores_are_json_numbers(score):
    assert sax_inputs.finite(score) == -1e30
