from ts.protocol.otf_message_handler import send_intermediate_predict_response


class StreamOld:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        for k in range(3):
            send_intermediate_predict_response([f"p{k}," for _ in data], context.request_ids, "Intermediate", 200, context)
        return ["end" for _ in data]
