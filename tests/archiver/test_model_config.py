import pytest

from flambeau.archiver.errors import InvalidModel
from flambeau.archiver.model_config import parse_model_config


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
        pytest.param("a: &a [1]\nb: [" + "*a," * 200 + "]", id="aliases that multiply"),
        pytest.param("- 1\n- 2", id="no mapping"),
        pytest.param("a: [", id="broken"),
    ],
)
def test_a_yaml_that_could_hurt_is_refused(text):
    with pytest.raises(InvalidModel):
        parse_model_config(text)
