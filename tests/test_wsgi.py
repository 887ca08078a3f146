"""Whole, bounded requests are all that an application behind the event loop sees."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from flambeau.wsgi import Adapter

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/a b",
    "raw_path": b"/a%20b",
    "query_string": b"x=1",
    "headers": [(b"content-type", b"text/plain"), (b"x-many", b"1"), (b"x-many", b"2"), (b"transfer-encoding", b"chunked")],
    "http_version": "1.1",
    "server": ("localhost", 80),
}


def part(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def talk(messages, **settings):
    """What an application that echoes is asked, and what its client is told: (status, headers, body) or None."""
    seen, sent, messages = [], [], iter(messages)

    def app(environ, start_response):
        seen.append(environ)
        start_response("200 OK", [("X-Answer", "yes")])
        return [environ["wsgi.input"].read()]

    async def receive():
        message = next(messages, None)
        return message or await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(Adapter(app, threads, **{"max_body_bytes": 10, **settings})(SCOPE, receive, send))
    if not sent:
        return seen, None
    head, body = sent
    return seen, (head["status"], dict(head["headers"]), body["body"])


def test_a_request_is_handed_over_when_it_is_whole():
    (environ,), answer = talk([part(b"one ", more=True), part(b"two")])

    assert answer == (200, {b"x-answer": b"yes"}, b"one two")
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("POST", "/a b", "x=1")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"], environ["HTTP_X_MANY"]) == ("text/plain", "7", "1,2")
    assert "HTTP_TRANSFER_ENCODING" not in environ


@pytest.mark.parametrize(
    ("messages", "status", "body"),
    [
        pytest.param([part(b"x" * 8, more=True), part(b"x" * 8)], 413, b"too large", id="too large"),
        pytest.param([part(b"x", more=True)], 408, b"", id="too slow"),
    ],
)
def test_what_is_not_wanted_never_reaches_the_application(messages, status, body):
    seen, answer = talk(messages, too_large=b"too large", body_seconds=0.05)

    assert seen == []
    assert (answer[0], answer[2]) == (status, body)


def test_half_a_request_is_none():
    assert talk([part(b"x", more=True), {"type": "http.disconnect"}]) == ([], None)
