"""Handler of Flambeau and TorchServe: 64 chunks by TorchServe's own call, the last one returned."""

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if not data:
        return None
    for number in range(63):
        send_intermediate_predict_response([f"token{number} "], context.request_ids, "Intermediate", 200, context)
    return ["token63 "]
