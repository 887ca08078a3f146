"""A system as plain typed data: accelerators, models, service classes, servers, capacity. No behaviour, no globals.

Units: time in milliseconds, arrival rates in requests per minute, cost in any currency per hour, power in watts,
accelerator memory in GB. The wire names are those of the JSON; fields marked `optional` are ours and absent by default.
"""

from dataclasses import dataclass, field, replace

from .wire import wire

# ruff: noqa: RUF009 - wire() is field() with a name

FREE_CLASS = "Free"  # the service class of a server which names none
LOWEST_PRIORITY = 100


@dataclass(frozen=True)
class PowerSpec:
    idle: int = 0
    full: int = 0
    mid_power: int = 0
    mid_util: float = 0.0

    def at(self, utilisation: float) -> float:
        """Watts of one card: linear from idle to the middle, then to full."""
        below = utilisation <= self.mid_util
        start, end = (self.idle, self.mid_power) if below else (self.mid_power, self.full)
        low, high = (0.0, self.mid_util) if below else (self.mid_util, 1.0)
        return start if high <= low else start + (end - start) * (utilisation - low) / (high - low)


@dataclass(frozen=True)
class AcceleratorSpec:
    name: str = ""
    type: str = ""  # what capacity counts
    multiplicity: int = 0  # units of the type in one accelerator
    mem_size: int = 0
    mem_bw: int = wire("memBW", 0)
    power: PowerSpec = PowerSpec()
    cost: float = 0.0


@dataclass(frozen=True)
class DecodeParms:
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class PrefillParms:
    gamma: float = 0.0
    delta: float = 0.0


@dataclass(frozen=True)
class PerfData:
    """How a model performs on an accelerator: a decode step takes alpha + beta·n, a prefill gamma + delta·tokens·n."""

    name: str = ""
    acc: str = ""
    acc_count: int = 0
    max_batch_size: int = 0
    at_tokens: int = 0
    decode_parms: DecodeParms = DecodeParms()
    prefill_parms: PrefillParms = PrefillParms()
    weights_memory: float | None = wire("weightsMemory", None, optional=True)  # GB
    kv_bytes_per_token: float | None = wire("kvBytesPerToken", None, optional=True)
    stepwise: bool | None = wire("stepwise", None, optional=True)  # prefills share their steps with decoding

    @property
    def cards(self) -> int:
        return max(self.acc_count, 1)


@dataclass(frozen=True)
class ModelTarget:
    model: str = ""
    slo_itl: float = wire("slo-itl", 0.0)
    slo_ttft: float = wire("slo-ttft", 0.0)
    slo_tps: float = wire("slo-tps", 0.0)
    percentile: float | None = wire("percentile", None, optional=True)  # 95 means p95; absent: the mean


@dataclass(frozen=True)
class ServiceClassSpec:
    name: str = ""
    priority: int = 0
    model_targets: tuple[ModelTarget, ...] = ()

    def normalised(self) -> "ServiceClassSpec":
        targets = {target.model: target for target in self.model_targets}
        priority = self.priority if 1 <= self.priority <= LOWEST_PRIORITY else LOWEST_PRIORITY
        return replace(self, priority=priority, model_targets=tuple(targets.values()))


@dataclass(frozen=True)
class Load:
    arrival_rate: float = 0.0
    avg_in_tokens: float = 0.0
    avg_out_tokens: float = 0.0


@dataclass(frozen=True)
class AllocationData:
    accelerator: str = ""
    num_replicas: int = 0
    max_batch: int = 0
    cost: float = 0.0
    itl_average: float = 0.0
    ttft_average: float = 0.0
    load: Load = Load()
    power: float | None = wire("power", None, optional=True)  # watts of all replicas
    parts: "tuple[AllocationData, ...] | None" = wire("parts", None, optional=True)  # when accelerators share it


@dataclass(frozen=True)
class ServerSpec:
    name: str = ""
    class_name: str = wire("class", "")
    model: str = ""
    keep_accelerator: bool = False
    min_num_replicas: int = 0
    max_batch_size: int = 0
    current_alloc: AllocationData = AllocationData()
    desired_alloc: AllocationData = AllocationData()
    max_num_replicas: int | None = wire("maxNumReplicas", None, optional=True)


@dataclass(frozen=True)
class Stabilisation:
    """What keeps decisions from following noise; see stabilise.py."""

    scale_down_ratio: float | None = wire("scaleDownRatio", None, optional=True)  # go down only below this share of now
    max_step_up: int | None = wire("maxStepUp", None, optional=True)  # replicas a decision may add
    max_step_down: int | None = wire("maxStepDown", None, optional=True)


@dataclass(frozen=True)
class OptimizerSpec:
    unlimited: bool = False
    heterogeneous: bool = False
    milp_solver: bool = False
    use_cplex: bool = False  # an alias of the exact solver built in
    delayed_best_effort: bool = False
    saturation_policy: str = ""
    partial: bool | None = wire("partial", None, optional=True)  # exact: serve whom we can, by priority, or refuse
    time_limit: float | None = wire("timeLimit", None, optional=True)  # seconds
    power_weight: float | None = wire("powerWeight", None, optional=True)  # cost of one watt
    price_current: bool | None = wire("priceCurrent", None, optional=True)  # compute currentAlloc's cost when it has none
    penalise_moves: bool | None = wire("penaliseMoves", None, optional=True)  # exact: a tenth more where a server is not
    strict: bool | None = wire("strict", None, optional=True)  # refuse a system with problems
    explain: bool | None = wire("explain", None, optional=True)
    stabilisation: Stabilisation | None = wire("stabilisation", None, optional=True)


@dataclass(frozen=True)
class CapacityCount:
    type: str = ""
    count: int = 0


@dataclass(frozen=True)
class AcceleratorData:
    accelerators: tuple[AcceleratorSpec, ...] | None = None


@dataclass(frozen=True)
class CapacityData:
    count: tuple[CapacityCount, ...] | None = None


@dataclass(frozen=True)
class ModelData:
    models: tuple[PerfData, ...] | None = None


@dataclass(frozen=True)
class ServiceClassData:
    service_classes: tuple[ServiceClassSpec, ...] | None = None


@dataclass(frozen=True)
class ServerData:
    servers: tuple[ServerSpec, ...] | None = None


@dataclass(frozen=True)
class OptimizerData:
    optimizer: OptimizerSpec = OptimizerSpec()


@dataclass(frozen=True)
class SystemData:
    accelerator_data: AcceleratorData = AcceleratorData()
    model_data: ModelData = ModelData()
    service_class_data: ServiceClassData = ServiceClassData()
    server_data: ServerData = ServerData()
    optimizer_data: OptimizerData = OptimizerData()
    capacity_data: CapacityData = CapacityData()


@dataclass(frozen=True)
class SystemBody:
    """What a client of /optimizeOne sends."""

    system: SystemData = SystemData()


@dataclass
class System:
    """The same by name: what the solvers read. A repeated name means the last one."""

    accelerators: dict[str, AcceleratorSpec] = field(default_factory=dict)
    capacity: dict[str, int] = field(default_factory=dict)
    models: dict[str, dict[str, PerfData]] = field(default_factory=dict)  # by model, then accelerator
    classes: dict[str, ServiceClassSpec] = field(default_factory=dict)
    servers: dict[str, ServerSpec] = field(default_factory=dict)

    @classmethod
    def of(cls, data: SystemData) -> "System":
        system = cls()
        system.add(data)
        return system

    def add(self, data: SystemData) -> None:
        self.accelerators |= {each.name: each for each in data.accelerator_data.accelerators or ()}
        self.capacity |= {each.type: each.count for each in data.capacity_data.count or ()}
        for perf in data.model_data.models or ():
            self.models.setdefault(perf.name, {})[perf.acc] = perf
        self.classes |= {each.name: each.normalised() for each in data.service_class_data.service_classes or ()}
        self.servers |= {each.name: each for each in data.server_data.servers or ()}

    def data(self, optimizer: OptimizerSpec) -> SystemData:
        """As a client would send it, with these options."""
        return SystemData(
            AcceleratorData(tuple(self.accelerators.values())),
            ModelData(tuple(perf for perfs in self.models.values() for perf in perfs.values())),
            ServiceClassData(tuple(self.classes.values())),
            ServerData(tuple(self.servers.values())),
            OptimizerData(optimizer),
            CapacityData(tuple(CapacityCount(type, count) for type, count in self.capacity.items())),
        )

    def copy(self) -> "System":
        """The same system, to be changed by itself: the specs never change, so sharing them is safe."""
        models = {name: dict(by_accelerator) for name, by_accelerator in self.models.items()}
        return System(dict(self.accelerators), dict(self.capacity), models, dict(self.classes), dict(self.servers))

    def class_of(self, server: ServerSpec) -> ServiceClassSpec | None:
        return self.classes.get(server.class_name or FREE_CLASS)

    def priority_of(self, server: ServerSpec) -> int:
        found = self.class_of(server)
        return found.priority if found else LOWEST_PRIORITY

    def target_of(self, server: ServerSpec) -> ModelTarget | None:
        found = self.class_of(server)
        return next((target for target in found.model_targets if target.model == server.model), None) if found else None

    def units(self, accelerator: str, model: str) -> int:
        """Units of its type that one replica of the model takes; 0 when either is not known."""
        spec, perf = self.accelerators.get(accelerator), self.models.get(model, {}).get(accelerator)
        return perf.cards * spec.multiplicity if spec and perf else 0
