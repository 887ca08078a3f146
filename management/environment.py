"""The environment variables of our child processes, and of those among them that run other people's code."""

import os
import re
from collections.abc import Mapping

SECRETS = r"FLAMBEAU_(INFERENCE|MANAGEMENT|API)_KEY|JWT_SECRET"  # no handler has any business with them


def worker_environment(environ: Mapping[str, str], hidden: str | None) -> dict[str, str]:
    """For code that is not ours: without the server's keys, and without what the operator hides."""
    return child_environment(environ, f"{SECRETS}|{hidden}" if hidden else SECRETS)


def child_environment(environ: Mapping[str, str], hidden: str | None = None, **more: str) -> dict[str, str]:
    """Ours for a child, less what `hidden` matches, and with an import path that finds this package from any folder.

    Threads of PyTorch that wait for each other sleep, unless ours says otherwise: where there are more of them than free
    cores, spinning costs far more than it saves (a model of 5 million parameters, load 9 on 2 cores: 4 against 150 tokens/s).
    """
    kept = {k: v for k, v in environ.items() if not (hidden and re.fullmatch(hidden, k))}
    paths = [os.path.abspath(p) for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p]
    home = _home_unless_installed()
    kept["PYTHONPATH"] = os.pathsep.join([*paths, *([home] if home and home not in paths else [])])
    if not kept["PYTHONPATH"]:
        del kept["PYTHONPATH"]
    return {"OMP_WAIT_POLICY": "PASSIVE"} | kept | more


def _home_unless_installed() -> str | None:
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return None if os.path.basename(home) in ("site-packages", "dist-packages") else home
