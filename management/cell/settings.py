"""What config.properties says of the cell, as `service` wants it."""

from collections.abc import Mapping
from pathlib import Path

from .. import addresses
from ..errors import SettingsError
from ..settings import Settings
from .errors import SaxError
from .names import parse_cell
from .service import CellOptions


def cell_options(settings: Settings, environ: Mapping[str, str], state_folder: Path) -> CellOptions:
    """SettingsError for a name that is none, or a root that members would look for in vain."""
    cell, address = settings.cell or "", addresses.parse(settings.sax_address)
    try:
        parse_cell(cell)
    except SaxError as error:
        raise SettingsError(f"cell={cell}: {error.text}") from None
    root = sax_root(settings, environ, state_folder)
    if not root:
        raise SettingsError("cell_admin=false: the cell is found by sax_root or SAX_ROOT")
    tags = tuple(tag.strip() for tag in (settings.cell_tags or "").split(",") if tag.strip())
    return CellOptions(
        cell=cell,
        sax_root=root,
        admin=settings.cell_admin,
        host=address.host,
        port=address.port,
        chip=settings.cell_chip,
        topology=settings.cell_topology,
        tags=tags,
        model_filter=settings.cell_model_filter or ".*",
        prune_seconds=settings.cell_prune_seconds,
        model_api=settings.enable_model_api is not False,
    )


def sax_root(settings: Settings, environ: Mapping[str, str], state_folder: Path) -> str:
    """Where cells are found; an admin that is told none makes its own. Empty: unknown."""
    return settings.sax_root or environ.get("SAX_ROOT") or (str(state_folder / "sax_root") if settings.cell_admin else "")
