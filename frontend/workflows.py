"""TorchServe's workflows: a request walks through a graph of models and functions. `POST /wfpredict/{workflow}`

Each node is a model of its own queue; a node runs as soon as what feeds it has answered. One input comes as the body, several
as a form with the inputs' names; several last nodes answer as one JSON object. Not for: registering workflows.
"""

import asyncio
import json

from ..management.routing import WorkflowNode, WorkflowRoute
from .errors import ModelError, RequestError, WorkerDied, WorkflowNotFound
from .models import Answer, Models
from .multipart import form_data
from .options import FrontendOptions
from .web import Request, Route


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    async def predict(request: Request) -> None:
        """* /wfpredict/{workflow}"""
        models.refresh()
        workflow = models.table.workflows.get(request.rest)
        if workflow is None:
            raise WorkflowNotFound(request.rest)
        answers = await run(models, workflow, request)
        last = [node.name for node in workflow.nodes if not node.feeds]
        if len(last) == 1:
            head, body = answers[last[0]].head, answers[last[0]].body
            await request.answer(head.status, body, head.content_type, tuple(head.headers))
        else:
            together = {name: answers[name].body.decode(errors="replace") for name in last}
            await request.answer(200, json.dumps(together, indent=2))

    return [Route("*", "/wfpredict/", predict)]


async def run(models: Models, workflow: WorkflowRoute, request: Request) -> dict[str, Answer]:
    """The answers of all nodes. The first that fails ends the others, and its error is the workflow's."""
    tasks: dict[str, asyncio.Task[Answer]] = {}

    async def one(node: WorkflowNode) -> Answer:
        inputs = {name: (await tasks[name]).body for name in node.inputs}
        return await ask(models, node, inputs, request)

    try:
        async with asyncio.TaskGroup() as group:
            for node in workflow.nodes:  # each stands after those that feed it
                tasks[node.name] = group.create_task(one(node))
    except* RequestError as errors:
        raise errors.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}


async def ask(models: Models, node: WorkflowNode, inputs: dict[str, bytes], request: Request) -> Answer:
    """A worker that died is worth another attempt; what a handler refused is not."""
    body, headers = request.body, request.raw_headers
    if len(inputs) == 1:
        body, headers = next(iter(inputs.values())), [(b"Content-Type", b"application/octet-stream")]
    elif inputs:
        body, content_type = form_data(inputs)
        headers = [(b"Content-Type", content_type)]
    for attempt in range(node.attempts):
        try:
            async with asyncio.timeout(node.timeout_seconds):
                return await models.call(
                    models.find(node.model), "predict", body, request_id=request.request_id, headers=headers
                )
        except WorkerDied:
            if attempt + 1 == node.attempts:
                raise
        except TimeoutError:
            message = f"Workflow node {node.name} gave no answer within {node.timeout_seconds * 1000:.0f} ms (timeout-ms)."
            raise ModelError(504, "InternalServerException", message) from None
        except ModelError as error:
            message = f"Workflow node {node.name} failed to execute: {error}"
            raise ModelError(error.status, error.type, message) from None
    raise AssertionError("a node has at least one attempt")
