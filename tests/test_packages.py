import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from .conftest import HOME

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


@pytest.mark.parametrize("process", [
    pytest.param("management.server", id="the control plane"),
    pytest.param("frontend.server frontend.app", id="HTTP"),
    pytest.param("frontend.grpc_api.server", id="gRPC"),
    pytest.param("cli management.torchserve", id="the commands"),
    pytest.param("frontend.gateway", id="the proxy"),
    pytest.param("optimizer.server", id="the optimizer"),
    pytest.param("handlers.worker", id="a worker before it knows its model"),
])  # fmt: skip
def test_no_process_but_a_models_own_imports_torch(process):
    imports = "; ".join(f"import flambeau.{module}" for module in process.split())
    heavy = "print(*{'torch', 'transformers', 'numba', 'flambeau.handlers.engine'} & sys.modules.keys())"

    argv = [sys.executable, "-c", f"import sys; {imports}; {heavy}"]
    printed = subprocess.check_output(argv, env=os.environ | {"PYTHONPATH": HOME}, text=True)

    assert printed.split() == []
