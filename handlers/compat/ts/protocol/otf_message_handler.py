"""ts.protocol.otf_message_handler"""

from flambeau.handlers.answers import encode


def send_intermediate_predict_response(ret, req_id_map, message, code, context=None):
    """A part of each request's answer, on its way to the clients at once."""
    for at in req_id_map:
        context.send_part(at, ret[at])


def create_predict_response(ret, req_id_map, message, code, context=None, ts_stream_next=False):
    """Only the bodies: frames are the worker's own affair here."""
    return b"".join(encode(ret[at]) for at in req_id_map) if ret is not None else message.encode()
