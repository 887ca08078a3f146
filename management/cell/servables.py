"""What can be published: built-in servables by the paths Sax's users know, and every archive of the model store.

A servable is data: which handler runs it, which methods it has, which settings a publisher may override. Writing it out as
a model folder is `deploy`'s; running it the workers'. A `sax` section in an archive's YAML says the same of that archive:

    sax: {path: my.module.Captioner, aliases: [captioner], methods: [lm.generate], settings: {BEAMS: 4}}
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...archiver.errors import ArchiveError
from ...archiver.model_config import read_model_config
from ...archiver.unpack import ARCHIVE_SUFFIXES, read_manifest, stem
from .errors import SaxError

STORE = "store."
LM_METHODS = ("lm.generate", "lm.generate_stream", "lm.score", "lm.embed")
LM_SETTINGS: dict[str, Any] = {
    "HF_MODEL_PATH": "",
    "BATCH_SIZE": [32],
    "MAX_LIVE_BATCHES": 4,
    "NUM_SAMPLES": 1,
    "MAX_DECODE_STEPS": [1024],
    "MAX_TOKENS": 128,  # when a request does not say
    "INPUT_SEQ_LEN": 0,
    "TOP_K": 0,  # the largest a request may ask for; 0: any
    "TOP_P": 1.0,
    "TEMPERATURE": 1.0,
    "INCLUDE_PREFIX_IN_RESULT": False,
    "EXTRA_INPUTS": {},
    "DTYPE": "auto",
    "TENSOR_PARALLEL_SIZE": 1,
    "ENGINE": "auto",
    "DETERMINISTIC_RNG": False,
}


@dataclass(frozen=True)
class Servable:
    path: str
    handler: str  # as a manifest says it; empty: the archive's own
    methods: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra_inputs: Mapping[str, Any] = field(default_factory=dict)
    archive: Path | None = None  # of the model store, or a folder of ours
    default_checkpoint: str = ""  # what "None" stands for


TORCH = "saxml.server.torch"
LANGUAGE_MODELS = (
    Servable(
        path=f"{TORCH}.vllm_params.Gemma4B",
        aliases=(f"{TORCH}.vllm.Gemma4B", f"{TORCH}.vllm.Gemma4b", f"{TORCH}.lm.Gemma4b"),
        handler="text_generation",
        methods=LM_METHODS,
        settings=LM_SETTINGS,
    ),
    Servable(
        path="saxml.server.pax.lm.params.lm_cloud.LmCloudSpmd2BTest",
        aliases=("lm_cloud.LmCloudSpmd2BTest", "params.lm_cloud.LmCloudSpmd2BTest", "lm.params.lm_cloud.LmCloudSpmd2BTest"),
        handler="text_generation",
        methods=LM_METHODS,
        settings=LM_SETTINGS,
    ),
    Servable(path="flambeau.lm", handler="text_generation", methods=LM_METHODS, settings=LM_SETTINGS),
)


class Servables:
    """Everything that this machine can serve. The model store is looked at each time: archives come and go."""

    def __init__(self, model_store: Path | None, built_in: tuple[Servable, ...] = LANGUAGE_MODELS) -> None:
        self._model_store = model_store
        self._built_in = {name: servable for servable in built_in for name in (servable.path, *servable.aliases)}

    def paths(self) -> list[str]:
        declared = [name for servable in self._declared() for name in (servable.path, *servable.aliases)]
        return sorted({*self._built_in, *(STORE + name for name in self._archives()), *declared})

    def find(self, path: str) -> Servable:
        if path in self._built_in:
            return self._built_in[path]
        if path.startswith(STORE) and (archive := self._archives().get(path.removeprefix(STORE))):
            return of_archive(path, archive)
        for servable in self._declared():
            if path in (servable.path, *servable.aliases):
                return servable
        raise SaxError("InvalidArgument", f"Could not find servable model {path}")

    def _archives(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for entry in sorted(self._model_store.iterdir()) if self._model_store and self._model_store.is_dir() else ():
            if entry.name.endswith(ARCHIVE_SUFFIXES) or (entry / "MAR-INF").is_dir():
                found[stem(entry.name)] = entry
        return found

    def _declared(self) -> Iterator[Servable]:
        """Folders whose YAML names a path of their own; packed archives are known as store.<name> alone."""
        for name, archive in self._archives().items():
            if archive.is_dir():
                servable = of_archive(STORE + name, archive)
                if servable.path != STORE + name:
                    yield servable


def of_archive(path: str, archive: Path) -> Servable:
    """A packed archive's YAML is read when it is deployed; until then it is taken to be `custom`."""
    section: Mapping[str, Any] = {}
    if archive.is_dir():
        try:
            manifest = read_manifest(archive)
            config = archive / manifest.config_file if manifest.config_file else None
            raw = read_model_config(config).raw if config and config.is_file() else {}
            section = raw["sax"] if isinstance(raw.get("sax"), Mapping) else {}
        except (ArchiveError, OSError):
            section = {}
    return Servable(
        path=str(section.get("path", path)),
        aliases=tuple(section.get("aliases", ())),
        handler="",
        methods=tuple(section.get("methods", ("custom",))),
        settings=section.get("settings", {}),
        extra_inputs=section.get("extra_inputs", {}),
        archive=archive,
    )
