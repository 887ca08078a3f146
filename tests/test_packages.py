from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = {".venv", "tests", "build", ".typing", "compat", "benchmarks", "examples"}


def test_every_package_is_listed_in_setup_cfg():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")

    found = {
        ".".join(("flambeau", *init.parent.relative_to(ROOT).parts))
        for init in ROOT.rglob("__init__.py")
        if not SKIPPED & set(init.relative_to(ROOT).parts)
    }

    assert found == set(config["options"]["packages"].split())
