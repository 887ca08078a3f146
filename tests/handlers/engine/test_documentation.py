import re
from dataclasses import fields
from pathlib import Path

from flambeau.handlers import text_metrics
from flambeau.handlers.engine import config

DOCUMENT = (Path(__file__).parents[3] / "docs" / "llm-engine.md").read_text()


def test_every_key_is_explained_where_it_is_declared():
    lines = Path(config.__file__).read_text().splitlines()
    for field in fields(config.TextModelConfig):
        declared = next(line for line in lines if line.startswith(f"    {field.name}:"))
        assert "#" in declared or field.name in DOCUMENT, field.name


def test_every_metric_is_documented():
    names = set(re.findall(r'"(Llm\w+)"', Path(text_metrics.__file__).read_text()))

    assert names > set(text_metrics.TOTALS)
    assert not [name for name in names if f"`{name}`" not in DOCUMENT]
