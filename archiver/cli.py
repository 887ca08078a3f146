"""`torch-model-archiver`: the original's flags, messages and exit codes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import PackingError
from .pack import PackRequest, pack

PROGRESS_FROM_BYTES = 256 << 20


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="torch-model-archiver", description="Torch Model Archiver Tool")
    add = made.add_argument
    add("--model-name", required=True, help="name of the model; the archive is named after it")
    add("--handler", required=True, help="built-in handler's name, a Python file, file:function or file.py:function")
    add("-v", "--version", required=True, help="version of the model")
    add("--serialized-file", type=Path, help="the weights: .pt or .pth, a state dict (with --model-file), or TorchScript")
    add("--model-file", type=Path, help="the Python file with the one class of the network, for a state dict")
    add("--extra-files", default="", help="more files, comma-separated: files, patterns, folders (their contents)")
    add("--runtime", default="python", choices=["python", "python3", "LSP"], help="default: python")
    add("--export-path", type=Path, default=Path(), help="folder to write to; default: the current one")
    add(
        "--archive-format", default="default", choices=["default", "zip-store", "tgz", "no-archive"],
        help="default: .mar; zip-store: .mar, uncompressed; tgz: .tar.gz; no-archive: a folder",
    )  # fmt: skip
    add("-f", "--force", action="store_true", help="overwrite what is there under this name")
    add("-r", "--requirements-file", type=Path, help="pip requirements of the model")
    add("-c", "--config-file", type=Path, help="the model's YAML")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    given = vars(parser().parse_args(argv))
    given["extra_files"] = [name for name in given["extra_files"].split(",") if name.strip()]
    try:
        pack(PackRequest(**given), _show_progress if sys.stderr.isatty() else None)
    except (PackingError, OSError) as error:
        sys.exit(f"torch-model-archiver: {error}")


def _show_progress(done: int, total: int) -> None:
    if total >= PROGRESS_FROM_BYTES:
        end = "\n" if done == total else ""
        print(f"\rpacking {done >> 20} of {total >> 20} MiB ({done / total:.0%})", end=end, file=sys.stderr, flush=True)
