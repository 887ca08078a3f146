"""A model registered over TorchServe's API, seen and changed from the cell."""

import asyncio
from types import SimpleNamespace

import pytest

from flambeau.management.cell.cell import Cell
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.faces import TwoFaces
from flambeau.management.cell.root import LocalFolder
from flambeau.management.registry import Registry, VersionRecord

RESNET = "/sax/test/resnet"


class PretendControl:
    """A real registry; takes note of what is done to it."""

    def __init__(self):
        self.registry = Registry(None)
        self.registry.add(VersionRecord(name="resnet", version="1.0", url="resnet.mar", archive="/store/resnet.mar"))
        self.pools = {("resnet", "1.0"): SimpleNamespace(archive=SimpleNamespace(config=SimpleNamespace(raw={})))}
        self.done = []

    async def scale(self, name, version, low, high, *, wait):
        self.done.append(("scale", name, low))

    async def unregister(self, name, version):
        self.done.append(("unregister", name))


@pytest.fixture
def control():
    return PretendControl()


@pytest.fixture
def cell(tmp_path):
    return Cell("/sax/test", LocalFolder(tmp_path), lambda: 0.0)


def ask(cell, control, verb, *, model_api=True, **payload):
    return asyncio.run(TwoFaces(cell, control, model_api=model_api).call(verb, {"model": RESNET, **payload}))


@pytest.mark.parametrize(("verb", "payload"), [
    ("update", {"replicas": 0}),
    ("unpublish", {}),
    ("publish", {"model_path": "a.B", "checkpoint": "None", "replicas": 1}),
])  # fmt: skip
def test_an_inference_token_changes_no_registered_model_unless_the_cell_s_acl_admits_it(cell, control, verb, payload):
    with pytest.raises(SaxError) as refused:
        ask(cell, control, verb, role="inference", **payload)

    assert refused.value.code == "PermissionDenied" and control.done == []
    cell.catalogue.admin_acl = "acl/inference"
    if verb != "publish":
        ask(cell, control, verb, role="inference", **payload)
        assert len(control.done) == 1


@pytest.mark.parametrize("change", [
    {"checkpoint": "/weights/2"}, {"admin_acl": "acl/all"}, {"acls": {"custom": "acl/all"}}, {"overrides": "A=1"},
])  # fmt: skip
def test_of_a_registered_model_only_replicas_can_be_changed(cell, control, change):
    with pytest.raises(SaxError, match="only its replicas") as refused:
        ask(cell, control, "update", replicas=1, **change)

    assert refused.value.code == "FailedPrecondition" and control.done == []
    asked = {"model_path": "store.resnet", "checkpoint": "None", "overrides": None}
    assert ask(cell, control, "update", replicas=2, **asked)["replicas"] == 2
    assert control.done == [("scale", "resnet", 2)]


def test_where_the_model_api_is_off_nothing_is_published_or_unpublished(cell, control):
    spec = {"model": "/sax/test/new", "model_path": "a.B", "checkpoint": "None", "replicas": 1}

    for verb, payload in (("publish", spec), ("unpublish", {})):
        with pytest.raises(SaxError, match="enable_model_api=false"):
            ask(cell, control, verb, model_api=False, **payload)

    assert cell.models() == [] and control.done == []
