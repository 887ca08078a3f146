"""Three machines, each a server with processes of its own, on this one."""

import signal
import time

from flambeau import sax

from .cluster import GEMMA, MODEL, Load, until
from .test_walkthroughs import free_port


class Machines:
    def __init__(self, shell, monkeypatch):
        self.shell = shell
        root = str(shell.folder / "root")
        monkeypatch.setenv("SAX_ROOT", root)
        shell.run("flambeau", "admin-config", "--sax_cell=/sax/test", f"--fs_root={root}/fs")
        self.admin_port = free_port()
        self.start_admin()
        self.processes = {}

    def start_admin(self):
        flags = [f"--port={self.admin_port}", "--prune_seconds=5"]
        self.admin = self.shell.start("flambeau", "admin", "--sax_cell=/sax/test", *flags, log="admin.log")

    def start(self, root=None):
        port = free_port()
        flags = ["--sax_cell=/sax/test", f"--port={port}", *([f"--sax_root={root}"] if root else [])]
        self.processes[f"127.0.0.1:{port}"] = self.shell.start("flambeau", "model-server", *flags, log=f"{port}.log")
        return f"127.0.0.1:{port}"

    def told(self):
        return "".join(path.read_text()[-3000:] for path in self.shell.folder.glob("*.log"))

    def joined(self, address):
        return f"Joined {address}" in self.log(address)

    def log(self, address):
        return self.shell.said(f"{address.split(':')[1]}.log")

    def addresses(self):
        return sax.admin._ask("status", MODEL, {})["addresses"]


def test_a_cell_survives_the_death_of_a_machine_and_of_its_admin(shell, monkeypatch):
    cell = Machines(shell, monkeypatch)
    front, *others = addresses = [cell.start() for _ in range(3)]
    until(lambda: all(cell.joined(address) for address in addresses), told=cell.told)

    sax.Publish(MODEL, GEMMA, "None", 3, {"ENGINE": '"mock"', "ram": "1000000000"})
    sax.WaitForReady(MODEL, 3)
    assert sorted(cell.addresses()) == sorted(addresses)  # one each

    with Load(front) as load:
        load.goes_on()
        killed = time.monotonic()
        cell.processes[others[0]].send_signal(signal.SIGKILL)
        until(lambda: others[0] not in cell.addresses(), 8, cell.told)
        sax.WaitForReady(MODEL, 3, timeout=15)
        print(f"replicas are back {time.monotonic() - killed:.1f} s after the death")
        load.goes_on()
    print(f"{load.statuses} while a machine died")
    assert load.failed <= 4, load.texts  # one per client at most: what the machine was running

    with Load(front) as load:
        load.goes_on()
        cell.admin.send_signal(signal.SIGKILL)
        load.goes_on()
        cell.admin.wait()
        cell.start_admin()
        restarted = time.monotonic()
        until(lambda: len(cell.addresses()) == 2, 10, cell.told)  # both rejoined, and nothing was lost
        print(f"both rejoined {time.monotonic() - restarted:.1f} s after the admin's start")
        sax.WaitForReady(MODEL, 3)
        sax.Update(MODEL, GEMMA, "/another/checkpoint", 3)
        swapped = "Model lm version 1 is unregistered"
        until(lambda: all(swapped in cell.log(address) for address in (front, others[1])), told=cell.told)
        load.goes_on()
    print(f"{load.statuses} while the admin died, came back, and the checkpoint changed")
    assert load.failed == 0, load.texts


def test_a_standby_takes_over_from_a_dead_admin_and_watchers_go_on(shell, monkeypatch):
    cell = Machines(shell, monkeypatch)
    until(lambda: "is served by" in shell.said("admin.log"), told=cell.told)
    shell.start("flambeau", "admin", "--sax_cell=/sax/test", f"--port={free_port()}", log="standby.log")
    until(lambda: "standing by" in shell.said("standby.log"), told=cell.told)
    address = cell.start()
    sax.Publish(MODEL, GEMMA, "None", 1, {"ENGINE": '"mock"'})
    sax.WaitForReady(MODEL, 1)
    watching = shell.start("saxutil", "watch", MODEL, log="watch.log")
    until(lambda: shell.said("watch.log") == f"+ {address}\n", told=cell.told)

    cell.admin.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: "is served by" in shell.said("standby.log"), 10, cell.told)
    until(lambda: cell.addresses() == [address], 10, cell.told)
    print(f"\nthe standby has the cell and its server {time.monotonic() - killed:.1f} s after the admin's death")
    until(lambda: shell.said("watch.log") == f"+ {address}\nReset\n+ {address}\n", told=cell.told)
    sax.Update(MODEL, GEMMA, "None", 2)
    sax.WaitForReady(MODEL, 2)

    sax.Unpublish(MODEL)

    assert watching.wait(20) == 1
    assert f"Reset\nNotFound: model {MODEL} not found" in shell.said("watch.log")


def test_a_machine_with_another_key_does_not_join(shell, monkeypatch):
    cell = Machines(shell, monkeypatch)
    root, wrong = shell.folder / "root" / "sax" / "test", shell.folder / "wrong" / "sax" / "test"
    until(lambda: (root / "location.json").exists(), told=cell.told)
    wrong.mkdir(parents=True)
    for name in ("config.json", "location.json"):
        (wrong / name).write_bytes((root / name).read_bytes())
    (wrong / "key").write_text("0" * 64)

    address = cell.start(root=str(shell.folder / "wrong"))
    log = f"{address.split(':')[1]}.log"

    until(lambda: "Failed to join: the cell refuses this machine's key" in shell.said(log), told=cell.told)
    assert not cell.joined(address) and sax.ListAll("/sax/test") == []
