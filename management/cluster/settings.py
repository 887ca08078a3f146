"""What config.properties says of the cluster, as the keeper wants it."""

from pathlib import Path

from ..cell.service import CellOptions
from ..errors import SettingsError
from ..settings import Settings
from ..startup import Plan
from .keeper import Task


def cluster_task(settings: Settings, cell: CellOptions, plan: Plan) -> Task:
    """SettingsError when this server is not the one that the machines would obey."""
    cluster = settings.cluster or ""
    if not cell.admin:
        raise SettingsError(f"cluster={cluster}: only the cell's admin has a cluster (cell_admin=true)")
    if cluster.startswith("local:") and not cluster.removeprefix("local:").isdecimal():
        raise SettingsError(f"cluster={cluster}: local:N, N being how many machines this one plays")
    return Task(
        cluster=cluster,
        cell=cell.cell,
        sax_root=cell.sax_root,
        folder=str(Path(plan.state_folder, "machines").absolute()),
        model_store=str(plan.model_store.absolute()),
        settings={"cell_prune_seconds": str(settings.cell_prune_seconds)},
    )
