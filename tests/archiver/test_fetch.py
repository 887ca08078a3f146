import contextlib
import fcntl
import http.server
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from flambeau.archiver import fetch as fetching
from flambeau.archiver.errors import AlreadyExists, DownloadFailed, ModelNotFound
from flambeau.archiver.fetch import FetchLimits, fetch


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.mar").write_bytes(b"archive")
    (tmp_path / "outside.mar").write_bytes(b"secret")
    return tmp_path / "store"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "/status.mar": (b"HTTP/1.1 200 ", b"O"),
    "/headers.mar": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "/continue.mar": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/chunk.mar": (CHUNKED + b"1;", b"x"),
    "/trailers.mar": (CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n"),
}


@pytest.fixture
def web():
    """A web server on loopback: /good.mar answers, /there redirects to where the test says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        to = ""
        stopped = threading.Event()

        def do_GET(self):
            if self.path == "/there.mar":
                self.send_response(302)
                self.send_header("Location", type(self).to)
                self.end_headers()
            elif self.path == "/slow.mar":
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not type(self).stopped.wait(0.02):
                        self.wfile.write(b"a")
            elif self.path in DRIPS:
                begin, drop = DRIPS[self.path]
                with contextlib.suppress(OSError):
                    self.wfile.write(begin)
                    while not type(self).stopped.wait(0.02):
                        self.wfile.write(drop)
            elif self.path in ("/good.mar", "/short.mar"):
                self.send_response(200)
                self.send_header("Content-Length", "7" if self.path == "/good.mar" else "70")
                self.end_headers()
                self.wfile.write(b"archive")
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url, server.handler = f"http://127.0.0.1:{server.server_port}", Handler
    yield server
    Handler.stopped.set()
    server.shutdown()


ALLOWED = ("http://127.0.0.1.*",)


def test_a_plain_name_is_a_file_of_the_model_store(store):
    assert fetch("m.mar", store).path == store / "m.mar"


@pytest.mark.parametrize("url", ["../outside.mar", "..%2foutside.mar", "%2e%2e/outside.mar", "a/../../outside.mar"])
def test_no_name_leads_out_of_the_model_store(store, url):
    with pytest.raises(ModelNotFound, match="Relative path is not allowed in url"):
        fetch(url, store)


def test_a_link_in_the_store_does_not_lead_out_of_it(store):
    (store / "link.mar").symlink_to(store.parent / "outside.mar")

    with pytest.raises(ModelNotFound, match="Model not found at: link"):
        fetch("link.mar", store)


@pytest.mark.parametrize(
    "url", ["http://example.invalid/x.mar", "file:///etc/x.mar", "https://user@127.0.0.1.evil.example/x.mar"]
)
def test_what_no_pattern_allows_is_refused(store, url):
    with pytest.raises(ModelNotFound, match="does not match any allowed URL"):
        fetch(url, store, ("http://good.example/.*",))


def test_an_absolute_path_is_the_operator_s_to_name(store):
    outside = str(store.parent / "outside.mar")

    with pytest.raises(ModelNotFound):
        fetch(outside, store)
    assert fetch(outside, store, trusted=True).path == store.parent / "outside.mar"


def test_a_download_is_kept_in_the_store_and_never_overwrites(store, web):
    fetched = fetch(f"{web.url}/good.mar", store, ALLOWED)

    assert fetched.downloaded and fetched.path.read_bytes() == b"archive"
    with pytest.raises(AlreadyExists, match=r"Model file already exists good\.mar"):
        fetch(f"{web.url}/good.mar", store, ALLOWED)


def test_a_download_sweeps_what_killed_servers_left_and_nothing_that_others_write(store, web):
    (store / ".download-left").write_bytes(b"half an ar")
    with (store / ".download-theirs").open("wb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)

        fetch(f"{web.url}/good.mar", store, ALLOWED)

    assert sorted(path.name for path in store.iterdir()) == [".download-theirs", "good.mar", "m.mar"]


@pytest.mark.parametrize("name", ["gone.mar", "short.mar"])
def test_a_download_that_fails_leaves_nothing(store, web, name):
    with pytest.raises(DownloadFailed, match=f"Failed to download archive from: {web.url}/{name}"):
        fetch(f"{web.url}/{name}", store, ALLOWED)
    assert [path.name for path in store.iterdir()] == ["m.mar"]


@pytest.mark.parametrize("to", ["http://169.254.169.254/latest.mar", "file:///etc/passwd", "http://localhost:1/x.mar"])
def test_a_redirect_must_be_allowed_too(store, web, to):
    web.handler.to = to

    with pytest.raises((ModelNotFound, DownloadFailed)):
        fetch(f"{web.url}/there.mar", store, ALLOWED)
    assert [path.name for path in store.iterdir()] == ["m.mar"]


def test_a_public_name_that_resolves_to_a_private_address_is_refused(store, monkeypatch):
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("10.0.0.8", 80))])

    with pytest.raises(ModelNotFound, match="private network"):
        fetch("http://models.example/x.mar", store, ("https?://.*",))


def test_a_pattern_that_names_another_host_does_not_open_the_private_network(store, monkeypatch):
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("10.0.0.8", 80))])

    with pytest.raises(ModelNotFound, match="private network"):
        fetch("http://example/x.mar", store, ("https?://(models.example.com|.*)/.*",))


def test_a_user_s_name_in_the_address_fools_no_pattern(store):
    with pytest.raises(ModelNotFound, match="user's name"):
        fetch("http://good.example@127.0.0.1/x.mar", store, ("http://good.example.*", "http://127.0.0.1.*"))


def test_a_server_that_trickles_must_meet_the_deadline(store, web):
    with pytest.raises(DownloadFailed):
        fetch(f"{web.url}/slow.mar", store, ALLOWED, FetchLimits(total_seconds=0.2))


@pytest.mark.parametrize("path", DRIPS)
def test_a_server_that_comes_to_no_end_must_meet_the_deadline(store, web, path):
    with pytest.raises(DownloadFailed):
        fetch(f"{web.url}{path}", store, ALLOWED, FetchLimits(total_seconds=0.2))
    assert [path.name for path in store.iterdir()] == ["m.mar"]


@pytest.mark.parametrize("url", ["pipe.mar", "file:///dev/zero"])
def test_what_is_neither_a_file_nor_a_folder_is_no_archive(store, url):
    os.mkfifo(store / "pipe.mar")

    with pytest.raises(ModelNotFound, match="Model not found at: "):
        fetch(url, store, ("file://.*",))


class NoSuchKey(Exception): ...


class Bucket:
    """As much of boto3 as we use: `held` in one key, which is there."""

    def __init__(self, held):
        self._held = held

    def client(self, service):
        return self

    def download_fileobj(self, bucket, key, file):
        if (bucket, key) != ("models", "m/new.mar"):
            raise NoSuchKey
        for piece in self._held:
            file.write(piece)


@pytest.mark.parametrize(
    ("key", "limits", "fetched"),
    [
        pytest.param("new.mar", FetchLimits(), True, id="there"),
        pytest.param("none.mar", FetchLimits(), False, id="no such key"),
        pytest.param("new.mar", FetchLimits(max_bytes=5), False, id="too large"),
        pytest.param("new.mar", FetchLimits(total_seconds=-1), False, id="too slow"),
    ],
)
def test_an_object_of_a_bucket_meets_the_same_limits(store, monkeypatch, key, limits, fetched):
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace(client=Bucket([b"arch", b"ive"]).client))
    url = f"s3://models/m/{key}"

    if fetched:
        assert fetch(url, store, ("s3://.*",), limits).path.read_bytes() == b"archive"
    else:
        with pytest.raises(DownloadFailed, match=f"Failed to download archive from: {url}"):
            fetch(url, store, ("s3://.*",), limits)
        assert [path.name for path in store.iterdir()] == ["m.mar"]


@pytest.mark.parametrize("url", ["http://[", "http://a:99999/x.mar", "http://a:b/x.mar", "a" * 5000, "\0.mar"])
def test_an_address_that_is_none_is_not_found(store, url):
    with pytest.raises(ModelNotFound):
        fetch(url, store, ("http.*",))
