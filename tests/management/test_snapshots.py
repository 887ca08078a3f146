import json
import shutil
from pathlib import Path

from flambeau.management import properties
from flambeau.management.registry import Registry, VersionRecord
from flambeau.management.snapshots import KEPT, Snapshots, newest

HERE = Path(__file__).parent


def registry():
    made = Registry(None)
    made.add(VersionRecord(name="m", version="1.0", url="m.mar", archive="/store/m.mar", min_workers=1, max_workers=2))
    return made


def test_a_snapshot_has_the_original_form(tmp_path):
    Snapshots(tmp_path, {"inference_address": "http://127.0.0.1:8080"}).write(registry().state, "startup")

    path = newest(tmp_path)
    pairs = properties.parse(path.read_text())
    document = json.loads(pairs["model_snapshot"])
    assert path.name.endswith("-startup.cfg") and path.name[:17].isdigit()
    assert pairs["inference_address"] == "http://127.0.0.1:8080"
    assert (document["name"], document["modelCount"]) == ("startup.cfg", 1)
    assert document["models"]["m"]["1.0"] == {
        "defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 2, "batchSize": 1, "maxBatchDelay": 100,
        "responseTimeout": 120, "startupTimeout": 120, "runtimeType": "python",
    }  # fmt: skip


def test_a_snapshot_is_for_its_owner_alone(tmp_path):
    Snapshots(tmp_path, {"keystore_pass": "changeit"}).write(registry().state, "startup")

    assert "changeit" in newest(tmp_path).read_text()
    assert newest(tmp_path).stat().st_mode & 0o777 == 0o600


def test_changes_leave_so_many_snapshots_and_no_more(tmp_path):
    snapshots, models = Snapshots(tmp_path, {}), registry()
    snapshots.write(models.state, "startup")
    for number in range(KEPT + 5):
        (tmp_path / f"20200101000000{number:03d}-snapshot.cfg").touch()

    snapshots.write(models.state, "snapshot")  # nothing has changed
    models.set_default("m", "1.0")
    snapshots.write(models.state, "snapshot")

    assert len(list(tmp_path.glob("*-snapshot.cfg"))) == KEPT
    assert len(list(tmp_path.glob("*-startup.cfg"))) == 1


def test_a_folder_as_torchserve_left_it_starts_and_serves(live_server):
    """model_store, config.properties with a snapshot in it, key_file.json: all as they were."""
    snapshot = {
        "name": "startup.cfg", "modelCount": 1, "created": 1592527481535,
        "models": {"echo": {"1.0": {
            "defaultVersion": True, "marName": "echo", "minWorkers": 1, "maxWorkers": 1, "batchSize": 2, "maxBatchDelay": 10,
            "responseTimeout": 60, "runtimeType": "python"}}},
    }  # fmt: skip
    text = json.dumps(snapshot, indent=2).replace("\n", "\\\n")
    server = live_server(
        start=False,
        model_snapshot=text,
        async_logging="true",
        vmargs="-Xmx1g",
        number_of_netty_threads="32",
        some_plugin="x",
    )
    server.archive("echo")
    (server.folder / "key_file.json").write_text(
        '{"management": {"key": "B-E5KSRM", "expiration time": "2024-02-16T21:12:24Z"}}'
    )

    server.start()
    server.wait(lambda: server.client.models() and server.workers("echo"))

    assert server.client.predict("echo", b"hello") == b"hello"
    (described,) = server.client.describe("echo")
    assert (described["batchSize"], described["maxBatchDelay"], described["responseTimeout"]) == (2, 10, 60)
    assert "unknown setting some_plugin" in server.said()
    assert server.stop() == 0
    assert {path.name[18:] for path in (server.folder / "logs" / "config").glob("*.cfg")} == {"startup.cfg", "shutdown.cfg"}


def test_a_snapshot_that_torchserve_wrote_starts_and_serves(live_server):
    """torchserve_left/ is what 0.12.0 left, with this machine's folders and ports in it; the archive is its archiver's."""
    server = live_server(start=False)
    ports = (server.client.inference, server.client.management, server.client.metrics)
    text = (HERE / "torchserve_left" / "20261121125118901-shutdown.cfg").read_text()
    marks = {"STORE": str(server.store), "GRPC_INFERENCE": "0", "GRPC_MANAGEMENT": "0"}
    marks |= dict(zip(("INFERENCE", "MANAGEMENT", "METRICS"), (url.rpartition(":")[2] for url in ports), strict=True))
    for mark, value in marks.items():
        text = text.replace(f"@{mark}@", value)
    (server.folder / "config.properties").unlink()
    (server.folder / "logs" / "config").mkdir(parents=True)
    (server.folder / "logs" / "config" / "20261121125118901-shutdown.cfg").write_text(text)
    shutil.copy(HERE / "torchserve_left" / "key_file.json", server.folder)
    shutil.copy(HERE.parent / "archiver" / "original" / "echo.mar", server.store)
    server.archive("other")  # load_models=all was for the first start: since then the snapshot tells what is registered

    server.start()
    server.wait(lambda: server.client.models() and server.workers("echo"))

    (described,) = server.client.describe("echo")
    assert (described["modelUrl"], described["batchSize"], described["maxBatchDelay"]) == ("echo.mar", 2, 10)
    assert [model["modelName"] for model in server.client.models()] == ["echo"]
    assert "unknown setting" not in server.said()
    assert server.client.predict("echo", b"hello") == b"hello"
