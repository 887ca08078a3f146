import http.client
import threading
import time
import urllib.parse

import psutil

SLOW = """
import time
def handle(data, context):
    if data is None:
        return None
    time.sleep(2)
    return [b"slept"] * len(data)
"""
STREAM = """
import time
class Stream:
    def initialize(self, context):
        pass
    def handle(self, data, context):
        def parts():
            for number in range(10):
                time.sleep(0.1)
                yield [f"{number};"]
        return parts()
"""


def test_a_stopped_server_answers_what_it_has_and_goes(live_server):
    """A request of 2 s, a stream, an idle keep-alive connection and half a header, as SIGTERM comes: nothing is lost, and the
    server is gone within 0.5 s of the longest answer, in one of three tries (others may use this machine, too)."""
    server = live_server()
    for name, handler in (("slow", SLOW), ("stream", STREAM)):
        server.archive(name, handler)
        server.client.register(name, initial_workers=1)

    for _ in range(3):
        code, answers, lingered = stopped_under_way(server)

        assert code == 0
        assert answers == {"slow": b"slept", "stream": b"".join(b"%d;" % number for number in range(10))}
        if lingered < 0.5:
            return
        server.start()
        for name in answers:
            server.wait(lambda name=name: server.workers(name))
    raise AssertionError(f"the server was there {lingered:.2f} s after its last answer")


def stopped_under_way(server):
    host = urllib.parse.urlsplit(server.client.inference).netloc
    answers, ended = {}, {}

    def ask(name):
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("POST", f"/predictions/{name}", b"x")
        answers[name] = connection.getresponse().read()
        ended[name] = time.monotonic()

    idle = http.client.HTTPConnection(host, timeout=20)
    idle.request("GET", "/ping")
    idle.getresponse().read()
    half = http.client.HTTPConnection(host, timeout=20)
    half.connect()
    half.sock.sendall(b"POST /predictions/slow HTTP/1.1\r\nHos")
    asking = [threading.Thread(target=ask, args=(name,)) for name in ("slow", "stream")]
    for thread in asking:
        thread.start()
    server.wait(lambda: all(server.under_way(name) for name in ("slow", "stream")))

    code = server.stop()
    gone = time.monotonic()
    for thread in asking:
        thread.join(20)
    return code, answers, gone - max(ended.values())


LEAVES_A_CHILD = """
import subprocess, sys
def handle(data, context):
    if data is None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return data and [b"" for _ in data]
"""


def test_what_a_handler_has_started_ends_with_its_worker(live_server):
    server = live_server()
    server.archive("parent", LEAVES_A_CHILD)
    server.client.register("parent", initial_workers=1)
    (worker,) = server.workers("parent")
    (child,) = psutil.Process(worker["pid"]).children()

    server.client.scale("parent", 0)

    server.wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


STUCK_THREAD = """
import threading
def handle(data, context):
    if data is None:
        threading.Thread(target=threading.Event().wait).start()
    return data and [b"" for _ in data]
"""


def test_a_thread_of_a_handler_does_not_hold_up_the_end(live_server):
    server = live_server()
    server.archive("stuck", STUCK_THREAD)
    server.client.register("stuck", initial_workers=1)

    begun = time.monotonic()
    server.stop()

    assert time.monotonic() - begun < 5  # else the worker is killed after drain_timeout, 30 s
