"""A worker in a few lines for the tests of text handlers: requests go in, what a client would see comes out."""

import time
from itertools import count
from types import SimpleNamespace

import msgspec

from flambeau.handlers.base import Request
from flambeau.handlers.generation import GenerationEvent
from flambeau.handlers.protocol import RequestHead

IDS = count(1)


class FakeReply:
    backlog = 0

    def __init__(self):
        self.status, self.body, self.chunks, self.headers, self.error = 0, b"", [], [], ""
        self.content_type, self.closed = None, False

    def respond(self, body, status=200, headers=None, content_type=None, error=""):
        assert not self.closed, "answered twice"
        self.body, self.status, self.headers, self.content_type, self.error = body, status, headers, content_type, error
        self.closed = True

    def start(self, status=200, headers=None, content_type=None):
        self.status, self.content_type = status, content_type

    def chunk(self, body):
        assert not self.closed, "a chunk after the end"
        self.chunks.append(bytes(body))

    def end(self, error=""):
        self.closed, self.error = True, error


def start(kind, folder, **section):
    """A loaded handler of class `kind`."""
    context = SimpleNamespace(
        worker_id="9000",
        model_yaml_config={"handler": section},
        model_dir=str(folder),
        model_name="m",
        gpu_id=None,
        metrics=None,
    )
    handler = kind()
    handler.initialize(context)
    return handler


def send(handler, operation, body, headers=()):
    """Submits; `body` is bytes, or a struct that travels as MessagePack."""
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    reply = FakeReply()
    request = Request(next(IDS), RequestHead(operation, "r", [*headers]), memoryview(raw), time.monotonic())
    reply.id = request.id
    handler.submit(request, reply)
    return reply


def run(handler, *replies, steps=5000):
    while not all(reply.closed for reply in replies) and steps:
        handler.step()
        steps -= 1
    assert all(reply.closed for reply in replies), "not answered"
    return replies[0] if len(replies) == 1 else replies


def events(reply):
    return [msgspec.msgpack.decode(chunk, type=GenerationEvent) for chunk in reply.chunks]


def text(reply):
    return "".join(event.text for event in events(reply))
