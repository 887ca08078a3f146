"""What each path of the REST does with the store; knows nothing of HTTP but method and path."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .explain import difference, explanations
from .solver import Solution, solution_body
from .store import Inconsistent, NotFound, Store, find, find_target, solve
from .system import (
    AcceleratorData,
    AcceleratorSpec,
    CapacityCount,
    CapacityData,
    ModelData,
    OptimizerData,
    OptimizerSpec,
    PerfData,
    ServerData,
    ServerSpec,
    ServiceClassData,
    ServiceClassSpec,
    System,
    SystemBody,
    SystemData,
)
from .validate import problems
from .wire import decode, encode


class BodyError(Exception):
    """A body which can be read but not used; says everything that is wrong with it."""

    def __init__(self, message: str, problems: list[str]) -> None:
        super().__init__(message)
        self.problems = problems


class BareError(Exception):
    """Told as a bare string, as callers of one route expect."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


@dataclass(frozen=True)
class Route:
    verb: str
    path: str
    respond: Callable[..., Any]
    summary: str
    body: type | None = None
    stateful: bool = True  # only offered when clients may change the system


def offered(*, stateful: bool) -> list[Route]:
    return [route for route in ROUTES if stateful or not route.stateful]


def _setter(spec: type, into: Callable[[Any], SystemData]) -> Callable[[Store, Any], Any]:
    """Adds or replaces by name; answers with what was understood."""

    def respond(store: Store, body: Any) -> Any:
        given: Any = decode(spec, body)
        store.add(into(given))
        return given

    return respond


_set_accelerators = _setter(AcceleratorData, lambda given: SystemData(accelerator_data=given))
_add_accelerator = _setter(AcceleratorSpec, lambda given: SystemData(accelerator_data=AcceleratorData((given,))))
_set_capacities = _setter(CapacityData, lambda given: SystemData(capacity_data=given))
_set_capacity = _setter(CapacityCount, lambda given: SystemData(capacity_data=CapacityData((given,))))
_set_models = _setter(ModelData, lambda given: SystemData(model_data=given))
_set_classes = _setter(ServiceClassData, lambda given: SystemData(service_class_data=given))
_set_servers = _setter(ServerData, lambda given: SystemData(server_data=given))
_add_server = _setter(ServerSpec, lambda given: SystemData(server_data=ServerData((given,))))


def _get_accelerators(store: Store) -> Any:
    return list(store.snapshot().accelerators.values())


def _get_accelerator(store: Store, name: str) -> Any:
    return find(store.snapshot().accelerators, name, f"accelerator {name}")


def _remove_accelerator(store: Store, name: str) -> Any:
    return store.remove_accelerator(name)


def _get_capacities(store: Store) -> Any:
    return {"count": [CapacityCount(kind, count) for kind, count in store.snapshot().capacity.items()]}


def _get_capacity(store: Store, type: str) -> Any:
    return CapacityCount(type, find(store.snapshot().capacity, type, f"capacity for {type}"))


def _remove_capacity(store: Store, type: str) -> Any:
    return store.remove_capacity(type)


def _get_models(store: Store) -> Any:
    return list(store.snapshot().models)


def _get_model(store: Store, name: str) -> Any:
    return {"models": list(find(store.snapshot().models, name, f"model {name}").values())}


def _add_model(store: Store, name: str) -> Any:
    store.add_model(name)
    return name


def _remove_model(store: Store, name: str) -> Any:
    store.remove_model(name)
    return name


def _get_perf(store: Store, name: str, acc: str) -> Any:
    return find(find(store.snapshot().models, name, f"model {name}"), acc, f"accelerator {acc}")


def _add_perf(store: Store, body: Any) -> Any:
    given = decode(PerfData, body)
    store.add_perf(given)
    return given


def _remove_perf(store: Store, name: str, acc: str) -> Any:
    return store.remove_perf(name, acc)


def _get_classes(store: Store) -> Any:
    return {"serviceClasses": list(store.snapshot().classes.values())}


def _get_class(store: Store, name: str) -> Any:
    return find(store.snapshot().classes, name, f"service class {name}")


def _add_class(store: Store, name: str, priority: str) -> Any:
    if not re.fullmatch("[+-]?[0-9]{1,18}", priority):
        raise BodyError(f"service class priority {priority} invalid", [])
    return store.add_class(name, int(priority))


def _remove_class(store: Store, name: str) -> Any:
    return store.remove_class(name)


def _get_target(store: Store, name: str, model: str) -> Any:
    return find_target(find(store.snapshot().classes, name, f"service class {name}"), model)


def _add_targets(store: Store, body: Any) -> Any:
    given = decode(ServiceClassSpec, body)
    try:
        store.add_targets(given)
    except NotFound as error:
        raise BareError(str(error), 404) from None
    except Inconsistent as error:
        raise BareError(str(error), 400) from None
    return given


def _remove_target(store: Store, name: str, model: str) -> Any:
    return store.remove_target(name, model)


def _get_servers(store: Store) -> Any:
    return {"servers": list(store.snapshot().servers.values())}


def _get_server(store: Store, name: str) -> Any:
    return find(store.snapshot().servers, name, f"server {name}")


def _remove_server(store: Store, name: str) -> Any:
    return store.remove_server(name)


def _optimize(store: Store, body: Any) -> Any:
    """The options alone, or within {"optimizer": …}, as the documentation of the published tool has it."""
    wrapped = isinstance(body, dict) and any(key.lower() == "optimizer" for key in body)
    spec = decode(OptimizerData, body).optimizer if wrapped else decode(OptimizerSpec, body)
    if spec.strict:
        _refuse_problems(store.snapshot().data(spec))
    return _solved(store.optimize(spec), spec)


def _optimize_one(store: Store, body: Any) -> Any:
    data = system_of(body)
    spec = data.optimizer_data.optimizer
    if spec.strict:
        _refuse_problems(data)
    return _solved(store.optimize_one(data), spec)


def _refuse_problems(data: SystemData) -> None:
    if wrong := problems(data):
        raise BodyError(f"the system has {len(wrong)} problems", wrong)


def system_of(body: Any) -> SystemData:
    """A system within {"system": …}, or by itself."""
    wrapped = not isinstance(body, dict) or any(key.lower() == "system" for key in body)
    return decode(SystemBody, body).system if wrapped else decode(SystemData, body)


def _solved(solution: Solution, spec: OptimizerSpec) -> Any:
    body = solution_body(solution, spec)
    return body | {"explanations": explanations(solution)} if spec.explain else body


def _apply_allocation(store: Store) -> Any:
    store.apply_allocation()
    return "Done"


def _validate(_: Store, body: Any) -> Any:
    return {"problems": problems(system_of(body))}


def _what_if(_: Store, body: Any) -> Any:
    before, after = (system_of({"system": _part(body, name)}) for name in ("before", "after"))
    solutions = (
        solve(System.of(data), replace(data.optimizer_data.optimizer, stabilisation=None)) for data in (before, after)
    )
    return encode(difference(*solutions))


def _part(body: Any, name: str) -> Any:
    if not isinstance(body, dict) or not isinstance(body.get(name), dict):
        raise BodyError(f"body.{name}: expected a system", [])
    return body[name]


ROUTES = [
    Route("POST", "/setAccelerators", _set_accelerators, "Add or replace accelerators", AcceleratorData),
    Route("GET", "/getAccelerators", _get_accelerators, "All accelerators", stateful=False),
    Route("GET", "/getAccelerator/{name}", _get_accelerator, "One accelerator", stateful=False),
    Route("POST", "/addAccelerator", _add_accelerator, "Add or replace an accelerator", AcceleratorSpec),
    Route("GET", "/removeAccelerator/{name}", _remove_accelerator, "Remove an accelerator"),
    Route("POST", "/setCapacities", _set_capacities, "Set capacities by accelerator type", CapacityData),
    Route("GET", "/getCapacities", _get_capacities, "All capacities", stateful=False),
    Route("POST", "/setCapacity", _set_capacity, "Set the capacity of a type", CapacityCount),
    Route("GET", "/getCapacity/{type}", _get_capacity, "The capacity of a type", stateful=False),
    Route("GET", "/removeCapacity/{type}", _remove_capacity, "Remove the capacity of a type"),
    Route("POST", "/setModels", _set_models, "Add or replace performance data", ModelData),
    Route("GET", "/getModels", _get_models, "The names of all models", stateful=False),
    Route("GET", "/getModel/{name}", _get_model, "A model's performance data", stateful=False),
    Route("GET", "/addModel/{name}", _add_model, "Add a model without performance data"),
    Route("GET", "/removeModel/{name}", _remove_model, "Remove a model"),
    Route("POST", "/setServiceClasses", _set_classes, "Add or replace service classes", ServiceClassData),
    Route("GET", "/getServiceClasses", _get_classes, "All service classes", stateful=False),
    Route("GET", "/getServiceClass/{name}", _get_class, "One service class", stateful=False),
    Route("GET", "/addServiceClass/{name}/{priority}", _add_class, "Add a service class without targets"),
    Route("GET", "/removeServiceClass/{name}", _remove_class, "Remove a service class"),
    Route(
        "GET", "/getServiceClassModelTarget/{name}/{model}", _get_target, "A class's targets for a model", stateful=False
    ),
    Route("POST", "/addServiceClassModelTargets", _add_targets, "Add targets to a service class", ServiceClassSpec),
    Route("GET", "/removeServiceClassModelTarget/{name}/{model}", _remove_target, "Remove a class's target for a model"),
    Route("POST", "/setServers", _set_servers, "Add or replace servers", ServerData),
    Route("GET", "/getServers", _get_servers, "All servers", stateful=False),
    Route("GET", "/getServer/{name}", _get_server, "One server", stateful=False),
    Route("POST", "/addServer", _add_server, "Add or replace a server", ServerSpec),
    Route("GET", "/removeServer/{name}", _remove_server, "Remove a server"),
    Route(
        "GET", "/getModelAcceleratorPerf/{name}/{acc}", _get_perf, "How a model performs on an accelerator", stateful=False
    ),
    Route("POST", "/addModelAcceleratorPerf", _add_perf, "Add performance data of a known model", PerfData),
    Route("GET", "/removeModelAcceleratorPerf/{name}/{acc}", _remove_perf, "Remove performance data"),
    Route("POST", "/optimize", _optimize, "Allocate accelerators to the servers of the system", OptimizerSpec),
    Route("GET", "/applyAllocation", _apply_allocation, "Take what is desired as what is"),
    Route(
        "POST",
        "/optimizeOne",
        _optimize_one,
        "Allocate for the system given, which replaces the one known",
        SystemBody,
        False,
    ),
    Route("POST", "/validate", _validate, "What is wrong with a system, in sentences", SystemBody, stateful=False),
    Route("POST", "/whatIf", _what_if, "What changes from one system to another: {before, after}", stateful=False),
]
