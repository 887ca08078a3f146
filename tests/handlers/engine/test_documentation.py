from dataclasses import fields
from pathlib import Path

from flambeau.handlers.engine import config
from flambeau.handlers.text_metrics import TOTALS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "llm-engine.md").read_text()


def test_every_key_is_explained_where_it_is_declared():
    lines = Path(config.__file__).read_text().splitlines()
    for field in fields(config.TextModelConfig):
        declared = next(line for line in lines if line.startswith(f"    {field.name}:"))
        assert "#" in declared or field.name in DOCUMENT, field.name


def test_every_counter_is_documented():
    assert not [name for name in TOTALS if name not in DOCUMENT]
