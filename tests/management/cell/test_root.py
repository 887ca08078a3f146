"""The shared root: layout, lock, and what is said when something is not there."""

import asyncio
from pathlib import Path

import pytest

from flambeau.management.cell import admin
from flambeau.management.cell.cell import Cell
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.root import CellRoot, Location, cells, own_address, required_root


@pytest.fixture
def root(tmp_path):
    root = CellRoot(str(tmp_path), "/sax/test")
    root.create(f"{tmp_path}/fs")
    return root


def test_a_new_cell_has_config_key_and_state(root, tmp_path):
    root.state().write("state.json", b"{}")

    assert (tmp_path / "fs/sax/test/state.json").read_bytes() == b"{}"
    assert len(root.key()) == 64 and (tmp_path / "sax/test/key").stat().st_mode & 0o77 == 0
    assert cells(str(tmp_path)) == ["test"]


def test_a_cell_that_is_deleted_takes_along_what_was_published(root, tmp_path):
    root.state().write("state.json", b"{}")

    root.delete()

    assert cells(str(tmp_path)) == [] and list((tmp_path / "fs/sax").iterdir()) == []
    together = CellRoot(str(tmp_path), "/sax/one")
    together.create(str(tmp_path))
    together.state().write("state.json", b"{}")
    together.delete()
    assert cells(str(tmp_path)) == []


def test_a_changed_acl_is_obeyed_while_the_admin_runs_and_a_spoilt_one_is_not(root, tmp_path, monkeypatch):
    monkeypatch.setattr(admin, "ACL_SECONDS", 0.01)
    cell = Cell("/sax/test", root.state(), lambda: 0.0)

    async def becomes(acl, spoilt=None):
        following = asyncio.create_task(admin.follow_acl(root, cell))
        if spoilt:
            (tmp_path / "sax/test/config.json").write_text(spoilt)
            await asyncio.sleep(0.05)
        root.create(f"{tmp_path}/fs", acl)
        async with asyncio.timeout(10):
            while cell.catalogue.admin_acl != acl:
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(becomes("acl/all"))
    asyncio.run(becomes("acl/inference", spoilt='{"fs_root'))
    asyncio.run(becomes("", spoilt='{"fs_root": "/x", "admin_acl": "acl/none"}'))


def test_configured_again_it_keeps_its_key(root, tmp_path):
    key = root.key()

    root.create(f"{tmp_path}/fs2", "acl/all")

    assert root.key() == key and root.config().fs_root.endswith("fs2")


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(SaxError, match="no admin server has ever run"):
        root.location()
    with pytest.raises(SaxError, match='"/nowhere/sax/test" is not a directory'):
        CellRoot("/nowhere", "/sax/test").location()
    with pytest.raises(SaxError, match="SAX_ROOT"):
        required_root(None, {})


def test_one_admin_holds_the_lock(root):
    first, second = root.lock(), root.lock()
    first.release()
    third = root.lock()

    assert second is None and third is not None
    third.release()


def test_the_location_is_replaced_as_a_whole(root):
    root.announce(Location(address="127.0.0.1:1", incarnation="a"))
    root.announce(Location(address="127.0.0.1:2", incarnation="b"))

    assert root.location() == Location(address="127.0.0.1:2", incarnation="b")


def test_a_root_may_be_a_url():

    root = CellRoot("memory://cells", "/sax/test")
    root.create("memory://state")
    root.announce(Location(address="127.0.0.1:1", incarnation="a"))

    assert root.location().address == "127.0.0.1:1" and cells("memory://cells") == ["test"]
    assert root.lock() is not None
    root.delete()
    assert cells("memory://cells") == []


def test_an_unknown_scheme_is_refused_clearly():
    with pytest.raises(SaxError, match="nosuch://x"):
        CellRoot("nosuch://x", "/sax/test").create("/tmp/x")


def test_a_debugged_process_says_loopback():
    assert own_address({"SAX_DEBUG_IPADDR": "1"}) == "127.0.0.1"
    assert own_address({}).count(".") == 3


def test_who_may_not_read_the_key_is_told_so(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)

    for read in (root.key, root.location, root.config):
        with pytest.raises(SaxError, match="who reads it is a member") as refused:
            read()
        assert refused.value.code == "PermissionDenied"
