"""BaseHandler subclass without weights: raises where the request tells it to."""

from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException


class Phases(BaseHandler):
    def initialize(self, context):
        self.initialized = True
        self.manifest = context.manifest

    def _maybe(self, phase, d):
        if isinstance(d, dict) and d.get("fail") == phase:
            if d.get("code"):
                raise PredictionException(f"{phase} refused", d["code"])
            raise RuntimeError("failed in " + phase)

    def preprocess(self, data):
        rows = [d.get("body", d.get("data")) for d in data]
        for r in rows:
            self._maybe("preprocess", r)
        return rows

    def inference(self, rows):
        for r in rows:
            self._maybe("inference", r)
        return rows

    def postprocess(self, rows):
        for r in rows:
            self._maybe("postprocess", r)
        return rows
