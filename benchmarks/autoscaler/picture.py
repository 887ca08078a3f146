"""The demonstration drawn: load, workers and latencies of each model over the same seconds."""

from pathlib import Path

import numpy as np
from world import SLO, Answered

COLOURS = {"little": "#74a892", "big": "#2d6a4f", "itl": "#457b9d", "ttft": "#c8553d", "load": "#8d99ae"}
BIN_SECONDS = 2


def objectives(model: str) -> dict[str, float]:
    slo = SLO[model]
    return {"itl": slo["itl_ms"], "ttft": slo["ttft_ms"]} if model == "chat" else {"ttft": slo["latency_ms"]}


def draw(
    answered: list[Answered],
    looks: list[tuple[float, dict[str, dict[str, int]]]],
    steady: list[tuple[float, float]],
    path: Path,
) -> None:
    """`looks`: when, and the workers of each model on each accelerator."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(3, len(SLO), sharex=True)
    end = max(time for time, _ in looks)
    for column, model in enumerate(SLO):
        load, workers, latency = grid[:, column]
        sent = [each.sent for each in answered if each.model == model]
        bins = np.arange(0, end + BIN_SECONDS, BIN_SECONDS)
        load.hist(sent, bins=bins, weights=np.full(len(sent), 1 / BIN_SECONDS), color=COLOURS["load"])
        load.set(title=f"{model}: requests a second")
        below, times = np.zeros(len(looks)), [time for time, _ in looks]
        for name in ("little", "big"):
            counts = np.array([found.get(model, {}).get(name, 0) for _, found in looks])
            workers.fill_between(times, below, below + counts, step="post", color=COLOURS[name], label=f"on {name}", lw=0)
            below = below + counts
        workers.set(title="workers", ylim=(0, max(below) + 0.5))
        workers.yaxis.set_major_locator(MaxNLocator(integer=True))
        for metric, limit in objectives(model).items():
            label = {"itl": "between tokens", "ttft": "to the first token"}[metric] if model == "chat" else "whole answer"
            points = [(each.sent, getattr(each, metric)) for each in answered if each.model == model and not each.failed]
            latency.plot(*zip(*points, strict=True), ".", markersize=3, label=label, color=COLOURS[metric])
            latency.axhline(limit, color=COLOURS[metric], linewidth=0.9, linestyle="--")
        latency.set(title="milliseconds; dashed: what 95 % must keep", xlabel="seconds", yscale="log")
        latency.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        for axes in (workers, latency):
            axes.legend(frameon=False, loc="upper center", markerscale=3)
        for axes in (load, workers, latency):
            axes.spines[["top", "right"]].set_visible(False)
            for start, stop in steady:
                axes.axvspan(start, stop, color="black", alpha=0.05, linewidth=0)
    figure.savefig(path, dpi=100)
