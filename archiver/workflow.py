"""`torch-workflow-archiver`: a workflow's specification and its functions in a `.war`, as the original makes it.

Not for: what the specification says; whoever runs the workflow reads it.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .errors import PackingError
from .manifest import NAME, created_now

MANIFEST_PATH = "WAR-INF/MANIFEST.json"
ARCHIVER_VERSION = "0.2.15"  # of torch-workflow-archiver, whose format this is


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="torch-workflow-archiver", description="Torch Workflow Archiver Tool")
    add = made.add_argument
    add("--workflow-name", required=True, help="name of the workflow; the archive is named after it")
    add("--spec-file", required=True, type=Path, help="the YAML file with the models and the graph")
    add("--handler", type=Path, help="the Python file with the workflow's functions")
    add("--export-path", type=Path, default=Path(), help="folder to write to; default: the current one")
    add("-f", "--force", action="store_true", help="overwrite what is there under this name")
    add("--extra-files", default="", help="more files, comma-separated")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    given = parser().parse_args(argv)
    extra = [Path(name.strip()) for name in given.extra_files.split(",") if name.strip()]
    try:
        pack_workflow(given.workflow_name, given.spec_file, given.handler, extra, given.export_path, given.force)
    except (PackingError, OSError) as error:
        sys.exit(f"torch-workflow-archiver: {error}")


def pack_workflow(
    name: str,
    spec_file: Path,
    handler: Path | None = None,
    extra_files: Sequence[Path] = (),
    export_path: Path = Path(),
    force: bool = False,
) -> Path:
    """Writes `name`.war and returns its path; PackingError says what can't be packed."""
    if not NAME.fullmatch(name):
        raise PackingError(
            "Workflow name contains special characters.\n"
            f"The allowed regular expression filter for workflow name is: {NAME.pattern}"
        )
    if not export_path.is_dir():
        raise PackingError(f"Given export-path {export_path} is not a directory. Point to a valid export-path directory.")
    target = export_path / f"{name}.war"
    if target.exists() and not force:
        raise PackingError(
            f"{target} already exists.\nPlease specify --force/-f option to overwrite the workflow archive output file."
        )
    files = [spec_file, *([handler] if handler else []), *extra_files]
    for path in files:
        if not path.is_file():
            raise PackingError(f"The file {path} does not exist.")
    staging = target.with_name(f".packing-{target.name}")
    try:
        with zipfile.ZipFile(staging, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in dict.fromkeys(files):
                archive.write(path, path.name)
            archive.writestr(MANIFEST_PATH, json.dumps(manifest(name, spec_file, handler), indent=2))
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)
    return target


def manifest(name: str, spec_file: Path, handler: Path | None) -> dict[str, object]:
    workflow = {"workflowName": name, "specFile": spec_file.name}
    if handler is not None:
        workflow["handler"] = handler.name
    return {"createdOn": created_now(), "workflow": workflow, "archiverVersion": ARCHIVER_VERSION}
