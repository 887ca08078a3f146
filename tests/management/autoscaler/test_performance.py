import numpy as np
import pytest

from flambeau.management.autoscaler.config import AutoscalerConfigError, read_config, read_slo
from flambeau.management.autoscaler.fit import TooFewPoints, fit_line, typical
from flambeau.management.autoscaler.performance import DOUBTFUL, Book, Performance


def test_a_line_is_found_with_its_margins():
    random = np.random.default_rng(2)
    x = [float(n) for n in range(1, 17) for _ in range(3)]
    y = [20 + 0.5 * n + random.normal(0, 0.1) for n in x]

    line = fit_line(x, y)

    assert line.intercept == pytest.approx(20, abs=line.intercept_margin)
    assert line.slope == pytest.approx(0.5, abs=line.slope_margin)
    assert line.slope_margin < 0.02
    assert line.r_squared > 0.99


def test_no_time_is_below_zero():
    assert fit_line([1, 2, 3], [5, 4, 3]).slope == 0
    assert fit_line([1, 2, 3], [0.1, 2, 4]).intercept == 0


def test_what_is_typical_does_not_move_when_two_in_five_times_are_late():
    random = np.random.default_rng(3)
    times = random.normal(20, 0.1, 100)

    late = times + random.exponential(10, 100) * (np.arange(100) % 5 < 2)

    assert typical(late) == pytest.approx(20, abs=0.1)


def test_a_line_leaves_out_what_lies_far_from_it():
    random = np.random.default_rng(4)
    x = [float(n) for n in (1, 2, 4, 8) for _ in range(9)]
    y = [20 + 2 * n + random.normal(0, 0.05) + (random.exponential(8) if i % 3 == 0 else 0) for i, n in enumerate(x)]

    line = fit_line(x, y)

    assert (line.intercept, line.slope) == (pytest.approx(20, rel=0.01), pytest.approx(2, rel=0.02))
    assert 8 <= line.left_out <= 14 and line.doubt < 0.01


def test_a_line_keeps_every_place_it_has():
    line = fit_line([1, 1, 1, 2, 2, 2, 9, 9, 9], [1, 1, 1, 2, 2, 2, 30, 30, 30])

    assert line.left_out == 0 and line.doubt > DOUBTFUL


def test_a_line_needs_two_places():
    with pytest.raises(TooFewPoints, match="1 different"):
        fit_line([2, 2], [1, 1])


def test_performance_data_outlive_the_server(tmp_path):
    path = tmp_path / "state" / "performance.json"
    entry = Performance(model="m", accelerator="cpu", max_batch=8, alpha=1.5, margins={"alpha": 0.1})
    Book.open(path).put(entry)

    assert Book.open(path).entries == {("m", "cpu"): entry}


def test_a_damaged_file_is_as_if_nothing_were_known(tmp_path):
    (tmp_path / "performance.json").write_text("{half")

    assert Book.open(tmp_path / "performance.json").entries == {}


def test_the_configuration_names_its_accelerators(tmp_path):
    (tmp_path / "autoscaler.yaml").write_text(
        "period_seconds: 2\naccelerators:\n- {name: a, cores: [0], capacity: 3}\n- {name: b, cost: 2}\n"
    )

    config = read_config(tmp_path / "autoscaler.yaml")

    assert config.period_seconds == 2
    assert [(each.name, each.capacity, each.cores) for each in config.accelerators] == [("a", 3, (0,)), ("b", 1, ())]


def test_without_accelerators_it_is_this_machine(tmp_path):
    (tmp_path / "autoscaler.yaml").write_text("")

    (accelerator,) = read_config(tmp_path / "autoscaler.yaml").accelerators

    assert accelerator.name == "cpu" and accelerator.capacity == len(accelerator.cores) > 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("perod_seconds: 3", "unknown key perod_seconds", id="a misspelt key"),
        pytest.param("period_seconds: soon", "'soon' can't be used as float", id="a word for a number"),
        pytest.param("accelerators: [{capacity: 3}]", "name is missing", id="no name"),
        pytest.param("accelerators: [{name: a}, {name: a}]", "given twice", id="a name twice"),
        pytest.param("accelerators: [{name: a, cores: [4096]}]", "may not use 4096", id="cores of elsewhere"),
        pytest.param("period_seconds: 0", "expected 0.1 to 86400", id="no pause at all"),
        pytest.param("max_step_down: .inf", "inf can't be used as int", id="endless steps"),
        pytest.param("[", "autoscaler.yaml", id="no YAML"),
        pytest.param("dry_run: \x00", "autoscaler.yaml", id="no text"),
    ],
)
def test_a_configuration_which_cannot_be_used_is_refused(tmp_path, text, complaint):
    (tmp_path / "autoscaler.yaml").write_text(text)

    with pytest.raises(AutoscalerConfigError, match=complaint):
        read_config(tmp_path / "autoscaler.yaml")


def test_a_model_says_its_objectives_in_its_yaml():
    slo = read_slo({"slo": {"class": "premium", "itl_ms": 30, "percentile": 95, "idle_seconds": 60}})

    assert (slo.service_class, slo.itl_ms, slo.percentile, slo.idle_seconds) == ("premium", 30, 95, 60)
    assert read_slo({}) is None
    with pytest.raises(AutoscalerConfigError, match=r"0\.95 is not from 50 to below 100"):
        read_slo({"slo": {"itl_ms": 30, "percentile": 0.95}})
    with pytest.raises(AutoscalerConfigError, match="unknown key itl"):
        read_slo({"slo": {"itl": 30}})
