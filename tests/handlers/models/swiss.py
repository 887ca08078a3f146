"""One handler class driven by the request: each request says what it wants done ('op')."""

import json
import os
import time

from ts.utils.util import PredictionException


def _show(v):
    if isinstance(v, (bytes, bytearray)):
        return {"type": type(v).__name__, "value": bytes(v).decode("latin-1")[:2000], "len": len(v)}
    return {"type": type(v).__name__, "value": v}


class Swiss:
    def __init__(self):
        self.calls = 0
        self.ctx = None

    def initialize(self, context):
        self.ctx = context
        self.init_cwd = os.getcwd()

    def handle(self, data, context):
        self.calls += 1
        out = []
        n = len(data)
        for i, row in enumerate(data):
            body = row.get("body", row.get("data"))
            req = body
            if isinstance(req, (bytes, bytearray)):
                try:
                    req = json.loads(bytes(req).decode())
                except Exception:
                    req = None
            if not isinstance(req, dict):
                req = {}
            op = req.get("op", "echo")
            if op == "short":
                return ["only one"] * (n - 1)
            if op == "long":
                return ["extra"] * (n + 1)
            if op == "notlist":
                return {"not": "a list"}
            if op == "tuple":
                return tuple("t" for _ in data)
            out.append(self.one(i, n, op, req, row, context))
        return out

    def one(self, i, n, op, req, row, context):
        if op == "echo":
            return {
                "fields": {k: _show(v) for k, v in row.items()},
                "headers": dict(context.get_all_request_header(i).items()),
                "batch": n,
                "index": i,
                "pid": os.getpid(),
                "calls": self.calls,
            }
        if op == "pid":
            return {"pid": os.getpid(), "batch": n, "index": i, "tag": req.get("tag")}
        if op == "status":
            context.set_response_status(req["code"], req.get("phrase", ""), i)
            return req.get("out", {"ok": True})
        if op == "status_all":
            context.set_all_response_status(req["code"], req.get("phrase", ""))
            return {"ok": True}
        if op == "header":
            for k, v in req["headers"].items():
                context.set_response_header(i, k, v)
            return "hdr"
        if op == "ctype":
            context.set_response_content_type(i, req["ctype"])
            return req["out"]
        if op == "getheader":
            return {"value": context.get_request_header(i, req["name"])}
        if op == "reqid":
            return {"id": context.get_request_id(i)}
        if op == "raise":
            raise {"value": ValueError, "memory": MemoryError, "runtime": RuntimeError, "key": KeyError}[
                req.get("kind", "value")
            ](req.get("msg", "boom"))
        if op == "predexc":
            if "code" in req:
                raise PredictionException(req.get("msg", "custom message"), req["code"])
            raise PredictionException(req.get("msg", "custom message"))
        if op == "exit":
            os._exit(req.get("code", 3))
        if op == "sigkill":
            os.kill(os.getpid(), 9)
        if op == "sleep":
            time.sleep(req["s"])
            return {"slept": req["s"], "pid": os.getpid(), "tag": req.get("tag"), "batch": n}
        if op == "ret":
            kind = req["kind"]
            if kind == "str":
                return "a string \u00e9"
            if kind == "bytes":
                return b"\x00\x01\xffraw"
            if kind == "bytearray":
                return bytearray(b"\x02ba")
            if kind == "dict":
                return {"a": 1, "b": [1, 2.5, None, True], "u": "\u00e9"}
            if kind == "list":
                return [1, 2, 3]
            if kind == "int":
                return 7
            if kind == "float":
                return 1.5
            if kind == "none":
                return None
            if kind == "bool":
                return True
            if kind == "empty":
                return ""
            if kind == "tensor":
                import torch

                return torch.arange(4).reshape(2, 2)
            if kind == "object":
                return object()
            if kind == "nan":
                return {"x": float("nan")}
            if kind == "big":
                return "x" * req["n"]
        if op == "ctx":
            p = context.system_properties
            return {
                "model_name": context.model_name,
                "manifest": context.manifest,
                "props": {
                    k: p.get(k)
                    for k in (
                        "model_dir",
                        "gpu_id",
                        "batch_size",
                        "server_name",
                        "server_version",
                        "limit_max_image_pixels",
                    )
                },
                "yaml": context.model_yaml_config,
                "cwd": self.init_cwd,
                "ls": sorted(os.listdir(p.get("model_dir"))),
                "same_ctx": self.ctx is context,
            }
        if op == "env":
            return {"v": os.environ.get(req["name"])}
        if op == "import":
            m = __import__(req["name"])
            return {"file": getattr(m, "__file__", None), "version": getattr(m, "__version__", None)}
        if op == "metrics":
            m = context.metrics
            m.add_counter("CfCounter", 3, i)
            m.add_time("CfTime", 12.5, i, "ms")
            m.add_size("CfSize", 4, i, "MB")
            m.add_percent("CfPercent", 55.0, i)
            m.add_metric(name="CfGeneric", value=9, unit="count", idx=i)
            return "metrics done"
        if op == "print":
            print(req["msg"], flush=True)
            return "printed"
        return {"unknown": op}
