class InitFail:
    def initialize(self, context):
        raise RuntimeError("cannot load this model")

    def handle(self, data, context):
        return ["never"] * len(data)
