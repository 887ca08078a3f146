import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.management.errors import (
    DefaultVersionInUse,
    ModelConflict,
    ModelNotFound,
    StateError,
    StorageFailed,
    VersionNotFound,
)
from flambeau.management.registry import Registry, VersionRecord


def record(version="1.0", **more):
    return VersionRecord(name="m", version=version, url="m.mar", archive="/store/m.mar", **more)


def test_what_was_registered_comes_back(tmp_path):
    registry = Registry(tmp_path / "state.json")
    registry.add(record("1.0", min_workers=2, max_workers=3))
    registry.add(record("2.0"))
    registry.set_default("m", "2.0")

    again = Registry(tmp_path / "state.json")

    assert again.state == registry.state
    assert again.find("m").version == "2.0"
    assert again.find("m", "1.0").min_workers == 2


def test_the_first_version_is_the_default_and_goes_last():
    registry = Registry(None)
    registry.add(record("1.0"))
    registry.add(record("2.0"))

    with pytest.raises(DefaultVersionInUse, match="Cannot remove default version for model m"):
        registry.remove("m")
    registry.remove("m", "2.0")
    registry.remove("m", "1.0")

    with pytest.raises(ModelNotFound):
        registry.find("m")


def test_a_version_is_there_and_the_default_or_neither(tmp_path):
    """One write: of two, the second may fail."""
    registry = Registry(tmp_path / "state.json")
    registry.add(record("1.0"))

    registry.add(record("2.0"), make_default=True)

    assert registry.find("m").version == "2.0"
    assert registry.state.sequence == 2


def test_a_version_is_registered_once():
    registry = Registry(None)
    registry.add(record())

    with pytest.raises(ModelConflict, match=r"Model version 1\.0 is already registered for model m"):
        registry.add(record())
    with pytest.raises(VersionNotFound):
        registry.find("m", "9")


def test_a_damaged_file_gives_way_to_the_last_good_copy(tmp_path):
    registry = Registry(tmp_path / "state.json")
    registry.add(record("1.0"))
    registry.add(record("2.0"))
    (tmp_path / "state.json").write_bytes(b'{"models": {')

    assert set(Registry(tmp_path / "state.json").versions("m")) == {"1.0"}


def test_a_full_disk_costs_the_change_and_nothing_else(tmp_path, monkeypatch):
    registry = Registry(tmp_path / "state.json")
    registry.add(record("1.0"))

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        registry.add(record("2.0"))

    monkeypatch.undo()
    assert set(registry.versions("m")) == {"1.0"}
    assert set(Registry(tmp_path / "state.json").versions("m")) == {"1.0"}


def test_two_damaged_files_are_an_error_not_an_empty_registry(tmp_path):
    (tmp_path / "state.json").write_bytes(b"{")
    (tmp_path / "state.json.good").write_bytes(b"{")

    with pytest.raises(StateError, match=r"state\.json\.good"):
        Registry(tmp_path / "state.json")


CHANGES = """
import sys
from pathlib import Path
from flambeau.management.registry import Registry, VersionRecord

registry = Registry(Path(sys.argv[1]))
for version in ("1", "2", "3"):
    registry.add(VersionRecord(name="m", version=version, url="u", archive="a"))
    print("done", flush=True)
"""


def test_a_kill_at_every_step_of_a_write_leaves_the_state_before_or_after(tmp_path):
    """As SQLite tests itself: die at the first step, at the second, … until a run gets through."""
    import flambeau

    home = str(Path(flambeau.__file__).resolve().parent.parent)
    for step in range(1, 100):
        state = tmp_path / str(step) / "state.json"
        run = subprocess.run(
            [sys.executable, "-c", CHANGES, str(state)],
            env=os.environ | {"FLAMBEAU_FAULT": f"state:{step}", "PYTHONPATH": home},
            capture_output=True,
            text=True,
            timeout=30,
        )
        done = run.stdout.count("done")
        found = len(Registry(state).state.models.get("m", {}))
        assert found in (done, done + 1), step
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr

    assert found == 3 and step > 15
