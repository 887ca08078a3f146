"""Sax's protocol at its border: its listener, its words for errors, who may pass."""

import asyncio
import json
from urllib.parse import quote

import jwt
import pytest

from flambeau.frontend.gate import InferenceKey
from flambeau.management.cell import wire
from flambeau.management.cell.api import Api
from flambeau.management.cell.directory import Directory
from flambeau.management.jwt_auth import JwtOptions

from .conftest import Client, write_keys
from .sax_plane import on_sax

SPEC = {"model": "/sax/test/m", "model_path": "a.B", "checkpoint": "None", "replicas": 0}


def test_a_model_is_published_listed_updated_and_unpublished(run):
    async def scenario(sax):
        assert await sax.ask("POST", "/publish", SPEC) == (200, SPEC | {"path": "a.B"})
        assert await sax.ask("GET", "/listall?sax_cell=/sax/test") == (200, ["/sax/test/m"])
        listed = {
            "model": "/sax/test/m",
            "model_path": "a.B",
            "checkpoint": "None",
            "max_replicas": 0,
            "active_replicas": 0,
        }
        assert await sax.ask("GET", "/listcell", {"model": "/sax/test/m"}) == (200, listed)
        assert (await sax.ask("PUT", "/update", SPEC | {"checkpoint": "/c/2"}))[0] == 200
        assert sax.cell.status("/sax/test/m").checkpoint == "/c/2"
        assert await sax.ask("POST", "/unpublish", {"model": "/sax/test/m"}) == (200, {"model": "/sax/test/m"})
        assert (await sax.ask("POST", "/generate", {"model": "/sax/test/m", "query": "x"}))[0] == 404

    on_sax(run, scenario)


def test_an_error_suits_sax_s_clients_and_torchserve_s(run):
    async def scenario(sax):
        expected = {"detail": "model /sax/test/none not found", "code": 404, "type": "NotFound"}
        status, body = await sax.ask("GET", "/listcell", {"model": "/sax/test/none"})
        assert status == 404 and body == expected | {"message": expected["detail"]}
        await sax.ask("POST", "/publish", SPEC)
        assert (await sax.ask("POST", "/publish", SPEC))[0] == 409
        assert (await sax.ask("POST", "/generate", {"model": "/sax/test/m", "query": "x"}))[0] == 503
        assert (await sax.ask("GET", "/nosuch"))[0] == 404
        assert (await sax.ask("DELETE", "/publish"))[0] == 405

    on_sax(run, scenario)


def test_what_is_wrong_with_another_cell_is_told_without_this_machine_s_folders(run, runtime):
    async def scenario(sax):
        status, body = await sax.ask("GET", "/listall?sax_cell=/sax/nope")

        assert (status, body["detail"]) == (404, "cell /sax/nope not found")

    on_sax(run, scenario, lambda cell: Directory(str(runtime), "/sax/test", Api(cell)))


def test_publishing_what_no_server_can_serve_is_told_in_the_log(run, caplog):
    async def scenario(sax):
        await sax.ask("POST", "/publish", SPEC)

    on_sax(run, scenario)

    assert "/sax/test/m: no server of this cell can serve a.B yet" in caplog.text


def test_sax_s_routes_are_on_its_own_listener_alone(run):
    async def scenario(sax):
        client = await sax.plane.client()
        assert (await client.ask("/publish", b"{}")).status in (404, 405)
        assert (await sax.ask("GET", "/ping"))[0] == 404

    on_sax(run, scenario)


def test_where_tokens_are_in_use_publishing_needs_an_acl(run, runtime):
    write_keys(runtime, InferenceKey("secret"))

    async def scenario(sax):
        refused = await sax.raw("POST", "/publish", SPEC)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        status, body = await sax.ask("POST", "/publish", SPEC, Authorization="Bearer secret")
        assert status == 403 and body["detail"].startswith("permission error")
        sax.cell.catalogue.admin_acl = "acl/all"
        assert (await sax.ask("POST", "/publish", SPEC, Authorization="Bearer secret"))[0] == 200
        member = f"Bearer {wire.member_token(b'key')}"
        sax.cell.catalogue.admin_acl = ""
        assert (await sax.ask("POST", "/unpublish", {"model": "/sax/test/m"}, Authorization=member))[0] == 200
        assert (await sax.ask("GET", "/"))[0] == 200
        status, body = await sax.ask("POST", "/cell/list", {})
        assert status == 401 and "not signed" in body["detail"]

    on_sax(run, scenario, token_authorization=True)


UNPUBLISH = json.dumps({"model": "/sax/test/m", "role": "admin"}).encode()


@pytest.mark.parametrize("path", [
    pytest.param("/cell/x HTTP/1.1\r\nHost: a\r\n\r\nPOST /internal/cell/unpublish", id="two line ends"),
    pytest.param("/cell/x HTTP/1.1\nHost: a\n\nPOST /internal/cell/unpublish", id="bare line feeds"),
    pytest.param("/cell/../internal/cell/unpublish", id="dots"),
    pytest.param("/cell//internal/cell/unpublish", id="slashes"),
    pytest.param("/cell/%69nternal", id="encoded twice"),
    pytest.param("/cell/list ", id="a blank"),
    pytest.param("/cell/list\x85", id="a line end elsewhere"),
])  # fmt: skip
def test_a_verb_that_is_no_word_never_reaches_the_cell(run, path):
    async def scenario(sax):
        await sax.ask("POST", "/publish", SPEC)
        client = Client(*await asyncio.open_connection("127.0.0.1", sax.port))

        answer = await client.ask(quote(path, safe="/"), UNPUBLISH)

        assert answer.status == 404
        assert sax.cell.models() == ["/sax/test/m"]

    on_sax(run, scenario)


SECRET = "a secret of thirty-two bytes, or more"


@pytest.mark.parametrize(("claims", "status"), [
    pytest.param(None, 401, id="nobody"),
    pytest.param({"sub": "a"}, 403, id="who may ask models"),
    pytest.param({"roles": ["management"]}, 403, id="who may manage, but not ask"),
    pytest.param({"roles": ["inference", "management"]}, 200, id="who may both"),
    pytest.param({"roles": ["admin"]}, 200, id="an admin"),
    pytest.param({"roles": ["admin"], "models": ["n*"]}, 403, id="an admin of other models"),
    pytest.param({"roles": ["admin"], "models": ["m*"]}, 200, id="an admin of this model"),
])  # fmt: skip
def test_where_json_web_tokens_are_in_use_publishing_needs_a_role(run, runtime, claims, status):
    (runtime / "secret").write_text(SECRET)
    token = {} if claims is None else {"Authorization": "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")}

    async def scenario(sax):
        assert (await sax.ask("POST", "/publish", SPEC, **token))[0] == status

    on_sax(run, scenario, jwt=JwtOptions(secret_file=str(runtime / "secret")))
