"""The access log, in TorchServe's line format.

A line is `2024-05-21T10:23:45,123 - /127.0.0.1:64003 "POST /predictions/m HTTP/1.1" 200 12`, the last number being
milliseconds.
"""

import time

from .line_log import LineLog


class AccessLog(LineLog):
    def add(self, client: bytes, method: bytes, url: bytes, version: bytes, status: int, seconds: float) -> None:
        text = b'/%b "%b %b HTTP/%b" %d %d' % (client, method, url, version, status, seconds * 1000)
        self.write(text, time.time())
