"""An archive's requirements.txt, installed for this model alone: an environment of its own on top of the server's packages.

What the server has is seen and not fetched again; what the model adds or changes is seen by its workers only, never by the
server. Off unless `install_py_dep_per_model`, since installing runs other people's code. Not for: trusting them.
"""

import logging
import re
import site
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..archiver.errors import InvalidModel

logger = logging.getLogger(__name__)

INSTALL_SECONDS = 1800.0
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[\w,\s.-]+\])?\s*([<>=!~]=?.*)?(;.*)?")
OPTION = re.compile(r"(^|\s)-|\$\{")
HASH = re.compile(r"--hash=sha\d+:[0-9a-f]+")


def install(requirements: Path, folder: Path, environment: Mapping[str, str], log_line: Callable[[str, str], None]) -> Path:
    """The environment's interpreter; packages build with the variables of `environment` and no others.

    InvalidModel, with pip's last words, when it can't be had; then nothing is left.
    """
    refuse_options(requirements.read_text(encoding="utf-8", errors="replace"))
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], environment, log_line)
    (purelib,) = folder.glob("lib/python*/site-packages")
    seen = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (purelib / "server.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "-r", str(requirements)], environment, log_line)
    (folder / "complete").touch()
    return python


def refuse_options(text: str) -> None:
    """Names and versions only: no other index, no links, no paths, no editable installs, none of our environment.

    Each line by itself, whether or not the one before ends in a backslash: pip lets no comment go on, so neither do we."""
    for number, line in enumerate(text.splitlines(), 1):
        plain = HASH.sub("", re.sub(r"(^|\s)#.*", "", line)).strip().removesuffix("\\").rstrip()
        if plain and (OPTION.search(plain) or not PLAIN.fullmatch(plain)):
            raise InvalidModel(f"requirements.txt, line {number}: {plain!r} is more than a package's name and version.")


def _run(argv: list[str], environment: Mapping[str, str], log_line: Callable[[str, str], None]) -> None:
    environment = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InvalidModel(f"Installing the model's requirements took more than {INSTALL_SECONDS:g} s.") from None
    for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        for line in text.splitlines():
            log_line(stream, line)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "see the model's log")
        raise InvalidModel(f"Custom pip package installation failed: {last}")
