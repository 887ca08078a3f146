import time

from ts.handler_utils.utils import send_intermediate_predict_response


class Stream:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        gap = 0.0
        b = data[0].get("body")
        n = 4
        if isinstance(b, dict):
            gap = float(b.get("gap", 0))
            n = int(b.get("n", 4))
        for k in range(n):
            send_intermediate_predict_response(
                [f"part{k} " for _ in data], context.request_ids, "Intermediate", 200, context
            )
            time.sleep(gap)
        return ["last" for _ in data]
