"""The same cell on Ray: three raylets on this machine. Not collected by pytest's defaults: `make test-ray` runs it, since Ray
is an extra of 100 MB. It needs Ray's token in RAY_AUTH_TOKEN.
"""

import os
import signal
import time

import psutil
from ray.cluster_utils import Cluster

from flambeau import sax

from ...sax.cluster import GEMMA, MODEL, Load, until
from ...sax.test_walkthroughs import free_port


def told(server):
    machines = server.folder / "logs" / "config" / "machines"
    return server.said()[-6000:] + "".join(log.read_text()[-2000:] for log in machines.glob("*/server.log"))


def servers():
    try:
        return sax.calls.ask_admin("servers", {}, "/sax/test")["servers"]
    except sax.SaxError:
        return []


def addresses():
    return sax.admin._ask("status", MODEL, {})["addresses"]


def test_a_cell_on_ray_survives_a_machine_and_ray_s_head(live_server, tmp_path, monkeypatch):
    os.environ["RAY_AUTH_MODE"] = "token"
    ray = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [ray.add_node(num_cpus=1, resources={"sax_tag:worker": 1}) for _ in range(2)]
    port, root = free_port(), str(tmp_path / "root")
    monkeypatch.setenv("SAX_ROOT", root)
    settings = {"cell": "/sax/test", "sax_root": root, "sax_address": f"http://127.0.0.1:{port}", "cluster": ray.address}
    server = live_server(cell_prune_seconds="5", **settings)
    machines = server.folder / "logs" / "config" / "machines"

    def server_pids():
        return [int(lock.read_text() or 0) for lock in machines.glob("*/server.lock")]

    try:
        until(lambda: len(servers()) == 4, 90, lambda: told(server))  # three nodes, and the server itself
        sax.Publish(MODEL, GEMMA, "None", 3, {"ENGINE": '"mock"', "ram": "1000000000"})
        sax.WaitForReady(MODEL, 3)
        assert len(addresses()) == 3
        sax.Update(MODEL, GEMMA, "None", 4)
        sax.WaitForReady(MODEL, 4)
        assert len(addresses()) == 4

        with Load(f"127.0.0.1:{port}") as load:
            load.goes_on()
            raylet = nodes[0].all_processes["raylet"][0].process
            lost = next(pid for pid in server_pids() if f"{nodes[0].node_id}" in _owner(pid, nodes, machines))
            killed = time.monotonic()
            raylet.kill()
            os.kill(lost, signal.SIGKILL)
            until(lambda: len(addresses()) == 3, 10, lambda: told(server))
            sax.WaitForReady(MODEL, 4, timeout=15)
            print(f"\nreplicas are back {time.monotonic() - killed:.1f} s after a machine's death: {load.statuses}")
            load.goes_on()
        assert load.failed <= 4, load.texts

        with Load(f"127.0.0.1:{port}") as load:
            load.goes_on()
            gcs = ray.head_node.all_processes["gcs_server"][0].process
            gcs.kill()
            began = time.monotonic()
            while time.monotonic() - began < 20:
                load.goes_on()
            print(f"\nRay's head was away for 20 s: {load.statuses}")
        assert load.failed == 0, load.texts
        assert len(addresses()) == 3 and sax.ListDetail(MODEL).active_replicas == 4
    finally:
        server.stop()
        for pid in server_pids():
            if pid and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        ray.shutdown()


def _owner(pid, nodes, machines):
    """The node whose machine's folder the process serves from."""
    import hashlib

    for node in nodes:
        name = hashlib.sha256(f"/sax/test {node.node_id}".encode()).hexdigest()[:12]
        lock = machines / name / "server.lock"
        if lock.exists() and lock.read_text() == str(pid):
            return [node.node_id]
    return []


def test_a_node_with_another_token_is_refused():
    os.environ["RAY_AUTH_MODE"] = "token"
    ray = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        import subprocess
        import sys

        environ = os.environ | {"RAY_AUTH_TOKEN": "0" * 64}
        code = f"import ray; ray.init(address='{ray.address}', logging_level='ERROR'); print('inside')"
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=100)
        assert "inside" not in done.stdout and done.returncode != 0
    finally:
        ray.shutdown()
