"""MLServer's custom runtime: the same echo and network, in its own protocol's tensors or a custom route."""

from mlserver import MLModel
from mlserver.handlers import custom_handler


class Echo(MLModel):
    async def load(self):
        return True

    @custom_handler(rest_path="/run")
    async def run(self, payload: dict) -> dict:
        return payload
