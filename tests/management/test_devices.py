import pytest

from flambeau.archiver.model_config import ModelConfig
from flambeau.management.devices import GpuRoundRobin, gpus_to_use, visible_gpus
from flambeau.management.pool import gpus_of_a_worker


@pytest.mark.parametrize(("shown", "count"), [(None, 2), ("0", 1), ("", 0), ("-1", 0), ("0,1,2", 2)])
def test_gpus_are_counted_without_torch(tmp_path, shown, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    assert visible_gpus({} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}, tmp_path) == count


@pytest.mark.parametrize(("files", "shown", "configured", "count"), [
    (2, None, None, 2), (2, None, 1, 1), (2, None, 8, 2), (0, None, None, 0), (0, None, 2, 2), (0, "", 2, 0), (0, "1", 2, 1),
])  # fmt: skip
def test_a_configured_number_is_believed_where_no_device_file_tells(tmp_path, files, shown, configured, count):
    for number in range(files):
        (tmp_path / f"nvidia{number}").touch()

    assert gpus_to_use(configured, {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}, tmp_path) == count


def test_gpus_are_dealt_one_after_the_other():
    gpus = GpuRoundRobin(3)

    assert [gpus.take([]) for _ in range(4)] == [[0], [1], [2], [0]]
    assert [gpus.take([2, 1]) for _ in range(3)] == [[2], [1], [2]]
    assert gpus.take([], 2) == [1, 2]
    assert gpus.take([7, 9]) == [0]  # of the configured ones none is here
    assert GpuRoundRobin(0).take([0]) == []


@pytest.mark.parametrize(("config", "count"), [
    (ModelConfig(), 1), (ModelConfig(parallelLevel=4), 1), (ModelConfig(parallelType="tp", parallelLevel=4), 4),
    (ModelConfig(parallelType="pp", torchrun={"nproc-per-node": 2}), 2),
])  # fmt: skip
def test_a_model_in_several_processes_has_as_many_gpus(config, count):
    assert gpus_of_a_worker(config) == count


def test_a_model_that_wants_a_gpu_and_gets_none_is_a_warning(live_server):
    server = live_server(number_of_gpu=0)
    server.archive("big", yaml="deviceType: gpu")

    server.client.register("big", initial_workers=1)

    log = (server.folder / "logs" / "ts_log.log").read_text()
    assert "Model big_1.0 wants a GPU and gets none" in log
