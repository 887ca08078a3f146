"""What is known of how models perform here: fitted parameters per model and accelerator, kept on disk, corrected while serving.

The file is replaced as a whole; a damaged one stops nothing, it is as if nothing had been measured.
"""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

logger = logging.getLogger(__name__)

CORRECTION_RANGE = (0.25, 4.0)
CORRECTION_STEP = 0.2  # how much of a new observation is believed
DOUBTFUL = 0.03  # lines which are known less well than this are not to be trusted


Time = Annotated[float, msgspec.Meta(ge=0)]


class Performance(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Milliseconds: a decode step alpha + beta·n, a prefill gamma + delta·tokens·n. R² says how straight the lines were."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    accelerator: Annotated[str, msgspec.Meta(min_length=1)]
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    alpha: Time = 0.0
    beta: Time = 0.0
    gamma: Time = 0.0
    delta: Time = 0.0
    decode_r_squared: float | None = None
    prefill_r_squared: float | None = None
    margins: dict[str, float] = {}  # half the 95 % interval of each parameter
    doubt: float | None = None  # half the 95 % interval of the lines, relative to their height; None: not known
    tokens: bool = True  # false: requests are single items, which the prefill stands for

    @property
    def trusted(self) -> bool:
        return self.doubt is not None and self.doubt <= DOUBTFUL


@dataclass
class Correction:
    """Observed over predicted, smoothed; what the fit missed or what has changed since."""

    itl: float = 1.0
    ttft: float = 1.0

    def learn(self, itl: float | None, ttft: float | None) -> None:
        """Takes ratios of observed to predicted, the prediction made with the present correction."""
        if itl is not None:
            self.itl = _moved(self.itl, itl)
        if ttft is not None:
            self.ttft = _moved(self.ttft, ttft)


def _moved(present: float, ratio: float) -> float:
    low, high = CORRECTION_RANGE
    return min(max(present * (1 + CORRECTION_STEP * (min(max(ratio, low), high) - 1)), low), high)


@dataclass
class Book:
    """All performance data; `path` None keeps them in memory only."""

    path: Path | None = None
    entries: dict[tuple[str, str], Performance] = field(default_factory=dict)
    corrections: dict[tuple[str, str], Correction] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None) -> "Book":
        book = cls(path)
        if path is not None and path.exists():
            try:
                known = msgspec.json.decode(path.read_bytes(), type=list[Performance])
            except (OSError, msgspec.MsgspecError) as error:
                logger.error("Performance data in %s can't be read: %s", path, error)
                return book
            book.entries = {(each.model, each.accelerator): each for each in known}
        return book

    def put(self, performance: Performance) -> None:
        self.entries[performance.model, performance.accelerator] = performance
        self.corrections.pop((performance.model, performance.accelerator), None)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            following = self.path.with_suffix(".next")
            with open(following, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(list(self.entries.values()))))
                file.flush()
                os.fsync(file.fileno())
            os.replace(following, self.path)

    def correction(self, model: str, accelerator: str) -> Correction:
        return self.corrections.setdefault((model, accelerator), Correction())

    def corrected(self, model: str, accelerator: str) -> Performance | None:
        found = self.entries.get((model, accelerator))
        if found is None:
            return None
        by = self.correction(model, accelerator)
        return msgspec.structs.replace(
            found,
            alpha=found.alpha * by.itl,
            beta=found.beta * by.itl,
            gamma=found.gamma * by.ttft,
            delta=found.delta * by.ttft,
        )
