"""A way to serve a server, as the queue model and the price list see it."""

from dataclasses import dataclass

from .system import AllocationData, Load

MSEC_PER_MINUTE = 60_000.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a server: whole replicas on one accelerator. An empty accelerator means nothing is needed."""

    accelerator: str
    type: str
    replicas: int
    batch: int
    cost: float
    itl: float
    ttft: float
    rho: float
    power: float
    load: Load
    value: float = 0.0  # what the greedy minimises: cost change and transition penalty
    units: int = 0  # of its type, per replica
    demand: float = 0.0  # requests per millisecond, all replicas together
    replica_rate: float = 0.0  # requests per millisecond one replica serves within the targets
    itl_percentile: float | None = None
    ttft_percentile: float | None = None
    most: int | None = None  # replicas this server may have, when that is fewer than it needs
    short_of: int | None = None  # replicas it needed, when best effort gave fewer

    @property
    def is_null(self) -> bool:
        return not self.accelerator

    @property
    def needed_units(self) -> int:
        return self.replicas * self.units

    @property
    def max_rpm(self) -> float:
        return self.replica_rate * MSEC_PER_MINUTE

    def data(self, *, power: bool = False) -> AllocationData:
        watts = self.power if power else None
        return AllocationData(
            self.accelerator, self.replicas, self.batch, self.cost, self.itl, self.ttft, self.load, power=watts
        )
