"""A cell of several "machines" on this one, and a load on it; the same for the local backend and for Ray."""

import threading
import time
from collections import Counter

import requests

MODEL = "/sax/test/lm"
GEMMA = "saxml.server.torch.vllm.Gemma4B"
SMALL = {"per_example_max_decode_steps": 2}


def until(true, seconds=60, told=lambda: ""):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, told()
        time.sleep(0.05)
    return found


class Load:
    """Requests without a pause from some threads; counts the answers by status."""

    def __init__(self, address, threads=4):
        self.url = f"http://{address}/generate"
        self.statuses = Counter()
        self.texts = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self):
        session = requests.Session()
        while not self._stop.is_set():
            try:
                answer = session.post(self.url, json={"model": MODEL, "query": "hi", "extra_inputs": SMALL}, timeout=40)
                self.statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    self.texts.append(answer.text)
            except requests.RequestException as error:
                self.statuses["lost"] += 1
                self.texts.append(str(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self):
        return sum(count for status, count in self.statuses.items() if status != 200)

    def goes_on(self, answers=20):
        """Waits until so many more have been answered well."""
        wanted = self.statuses[200] + answers
        until(lambda: self.statuses[200] >= wanted, 30, lambda: (self.statuses, self.texts[-3:]))
