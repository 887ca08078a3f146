"""What is wrong with a system though it can be read: names, numbers and references, each problem in a sentence.

The published tool accepts all of these in silence; so do we, unless the caller asks to be strict.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from .system import (
    FREE_CLASS,
    LOWEST_PRIORITY,
    AcceleratorSpec,
    ModelTarget,
    OptimizerSpec,
    PerfData,
    ServerSpec,
    ServiceClassSpec,
    Stabilisation,
    SystemData,
)

POLICIES = ("", "None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin")


def problems(data: SystemData) -> list[str]:
    accelerators = data.accelerator_data.accelerators or ()
    perfs = data.model_data.models or ()
    classes = data.service_class_data.service_classes or ()
    servers = data.server_data.servers or ()
    counts = data.capacity_data.count or ()
    types = {each.type for each in counts}
    options = data.optimizer_data.optimizer
    policy = options.saturation_policy
    return [
        *_names("accelerator", (each.name for each in accelerators)),
        *_names("capacity", (each.type for each in counts)),
        *_names("model and accelerator", (f"{each.name}/{each.acc}" if each.name else "" for each in perfs)),
        *_names("service class", (each.name for each in classes)),
        *_names("server", (each.name for each in servers)),
        *(f"capacity of {each.type} is negative: {each.count}" for each in counts if each.count < 0),
        *(problem for each in accelerators for problem in _of_accelerator(each, types)),
        *(problem for each in perfs for problem in _of_perf(each, {accelerator.name for accelerator in accelerators})),
        *(
            f"service class {each.name}: priority {each.priority} is not within 1 and {LOWEST_PRIORITY}"
            for each in classes
            if not 1 <= each.priority <= LOWEST_PRIORITY
        ),
        *(problem for each in classes for target in each.model_targets for problem in _of_target(each, target)),
        *(problem for each in servers for problem in _of_server(each, data)),
        *_of_options(options),
        *([f"saturationPolicy {policy} is not one of {', '.join(POLICIES[1:])}"] if policy not in POLICIES else []),
    ]


def _names(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if not name:
            yield f"a {what} has no name"
        elif times > 1:
            yield f"{what} {name} is given {times} times; the last one counts"


def _of_accelerator(accelerator: AcceleratorSpec, types: set[str]) -> Iterator[str]:
    what = f"accelerator {accelerator.name}"
    if accelerator.type not in types:
        yield f"{what}: no capacity is given for its type {accelerator.type}"
    if accelerator.cost < 0:
        yield f"{what}: cost {accelerator.cost:g} is negative"
    if accelerator.multiplicity < 1:
        yield f"{what}: multiplicity {accelerator.multiplicity} is not positive"


def _of_perf(perf: PerfData, accelerators: set[str]) -> Iterator[str]:
    what = f"model {perf.name} on {perf.acc}"
    if perf.acc not in accelerators:
        yield f"{what}: accelerator not known"
    numbers = {
        "alpha": perf.decode_parms.alpha,
        "beta": perf.decode_parms.beta,
        "gamma": perf.prefill_parms.gamma,
        "delta": perf.prefill_parms.delta,
        "maxBatchSize": perf.max_batch_size,
        "atTokens": perf.at_tokens,
        "weightsMemory": perf.weights_memory or 0.0,
        "kvBytesPerToken": perf.kv_bytes_per_token or 0.0,
    }
    yield from (f"{what}: {name} {value:g} is negative" for name, value in numbers.items() if value < 0)
    if not any(numbers[name] for name in ("alpha", "beta", "gamma", "delta")):
        yield f"{what}: decodeParms and prefillParms are all zero"


def _of_target(given: ServiceClassSpec, target: ModelTarget) -> Iterator[str]:
    what = f"service class {given.name}, model {target.model}"
    numbers = {"slo-itl": target.slo_itl, "slo-ttft": target.slo_ttft, "slo-tps": target.slo_tps}
    yield from (f"{what}: {name} {value:g} is negative" for name, value in numbers.items() if value < 0)
    if target.percentile and not 50 <= target.percentile < 100:
        yield f"{what}: percentile {target.percentile:g} is not from 50 to below 100, such as 95"


def _of_options(options: OptimizerSpec) -> Iterator[str]:
    how = options.stabilisation or Stabilisation()
    numbers = {
        "timeLimit": options.time_limit,
        "powerWeight": options.power_weight,
        "scaleDownRatio": how.scale_down_ratio,
        "maxStepUp": how.max_step_up,
        "maxStepDown": how.max_step_down,
    }
    yield from (f"{name} {value:g} is negative" for name, value in numbers.items() if value is not None and value < 0)


def _of_server(server: ServerSpec, data: SystemData) -> Iterator[str]:
    named = server.class_name or FREE_CLASS
    classes = {each.name: each for each in data.service_class_data.service_classes or ()}
    if server.model not in {perf.name for perf in data.model_data.models or ()}:
        yield f"server {server.name}: model {server.model} not known"
    if named not in classes:
        yield f"server {server.name}: service class {named} not known"
    elif server.model not in {target.model for target in classes[named].model_targets}:
        yield f"server {server.name}: service class {named} has no target for model {server.model}"
    load = server.current_alloc.load
    numbers = {
        "arrivalRate": load.arrival_rate,
        "avgInTokens": load.avg_in_tokens,
        "avgOutTokens": load.avg_out_tokens,
        "minNumReplicas": server.min_num_replicas,
        "maxBatchSize": server.max_batch_size,
    }
    yield from (f"server {server.name}: {name} {value:g} is negative" for name, value in numbers.items() if value < 0)
    least, most = server.min_num_replicas, server.max_num_replicas
    if most is not None and most < least:
        yield f"server {server.name}: maxNumReplicas {most} is below minNumReplicas {least}"
