import re
from pathlib import Path

import pytest

import flambeau
from flambeau.archiver.errors import InvalidModel
from flambeau.archiver.model_config import KINDS, WITHOUT_EFFECT, parse_model_config

ROOT = Path(flambeau.__file__).parent

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11))


def test_wrong_types_and_misspelt_keys_are_warnings_and_everything_is_kept():
    config = parse_model_config("batchSize: many\nmaxbatchdelay: 5\nminWorkers: 2\nuseJobTicket: true\nhandler: {x: 1}\n")

    assert (config.batchSize, config.minWorkers, config.useJobTicket) == (None, 2, True)
    assert any("batchSize" in warning for warning in config.warnings)
    assert any("maxBatchDelay" in warning for warning in config.warnings)
    assert config.raw["handler"] == {"x": 1}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("!!python/object/apply:os.system ['true']", id="a tag that makes an object"),
        pytest.param(LAUGHS, id="aliases that multiply"),
        pytest.param(LAUGHS + "minWorkers: *a10\n", id="aliases that multiply in a warning"),
        pytest.param(f"a: &a {'x' * 500_000}\nb: [{'*a, ' * 1000}]", id="a long text many times"),
        pytest.param("a: &a [*a]", id="an alias inside of itself"),
        pytest.param("1: x", id="a key that is no text"),
        pytest.param("limits: {most: 99999999999999999999}", id="a number that no process could be sent"),
        pytest.param("torchrun: {nproc-per-node: 100000}", id="more processes than a machine bears"),
        pytest.param("- 1\n- 2", id="no mapping"),
        pytest.param("a: [", id="broken"),
    ],
)
def test_a_yaml_that_could_hurt_is_refused(text):
    with pytest.raises(InvalidModel):
        parse_model_config(text)


def test_many_aliases_of_small_things_are_fine():
    config = parse_model_config("a: &a [1]\nb: [" + "*a, " * 1000 + "]")

    assert len(config.raw["b"]) == 1000


def test_a_key_of_torchserves_without_effect_is_a_warning_that_says_what_happens_instead():
    config = parse_model_config("useVenv: true\nmaxNumSequence: 4\nasyncCommunication: false\n")

    assert config.useVenv and config.maxNumSequence == 4
    assert [warning.partition(" has no effect: ")[0] for warning in config.warnings] == ["useVenv", "maxNumSequence"]


def test_the_table_in_the_docs_names_every_key_that_is_read():
    page = (ROOT / "docs" / "archives.md").read_text().partition("## The model's YAML")[2].partition("\n## ")[0]
    table, _, without_effect = page.partition("Accepted, without effect")
    sources = [path.read_text() for room in ("handlers", "frontend", "management") for path in (ROOT / room).rglob("*.py")]
    asked = re.compile(r"(?:model_yaml|model_yaml_config|config\.raw)(?:\.get\(|\[)\"(\w+)\"")
    read = {key for source in sources for key in asked.findall(source)} | KINDS.keys() - WITHOUT_EFFECT.keys()

    assert {"handler", "idempotent", "open_inference", "sax", "slo", "torchrun"} <= read
    named = {key for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert read == named
    assert WITHOUT_EFFECT.keys() <= set(re.findall(r"`(\w+)`", without_effect))


def test_a_number_beyond_32_bits_is_a_warning():
    config = parse_model_config("batchSize: 99999999999")

    assert config.batchSize is None and "batchSize" in config.warnings[0]
