"""A profile for people: the fit in words and figures, and drawn."""

from pathlib import Path
from typing import Any

from ...optimizer.pictures import figure_type, save
from .fit import Line
from .profile import Profile


def as_table(profile: Profile) -> str:
    found = profile.performance
    lines = [
        f"{found.model} on {found.accelerator}, up to {found.max_batch} at once; times in ms, ± half the 95 % interval"
    ]
    if profile.decode is not None:
        lines.append(_line("decode step", ("alpha", "beta"), "streams", profile.decode))
    lines.append(_line("prefill" if found.tokens else "answer", ("gamma", "delta"), _unit(profile), profile.prefill))
    lines.append(_verdict(profile))
    return "\n".join(lines)


def _verdict(profile: Profile) -> str:
    """How well the lines are known; aloud when that is not well enough."""
    found, rounds = profile.performance, f"{profile.rounds} round{'' if profile.rounds == 1 else 's'}"
    if found.doubt is None:
        return (
            f"NOT TO BE TRUSTED: {rounds} say{'s' if profile.rounds == 1 else ''} nothing of the error; more --repeats do"
        )
    known = f"known to within {found.doubt:.1%} after {rounds}, {_unit_of_time(profile)} timed by the {profile.timed_by}"
    if found.trusted:
        return known
    return f"NOT TO BE TRUSTED, {known}: the machine is busy, or times lie on no line; try again, or with more --repeats"


def _unit_of_time(profile: Profile) -> str:
    return "first tokens" if profile.performance.tokens else "answers"


def _unit(profile: Profile) -> str:
    return "prompt tokens" if profile.performance.tokens else "requests at once"


def _line(what: str, names: tuple[str, str], unit: str, line: Line) -> str:
    intercept = f"{names[0]} {line.intercept:.4g} ± {line.intercept_margin:.2g}"
    slope = f"{names[1]} {line.slope:.4g} ± {line.slope_margin:.2g}"
    without = f", {line.left_out} points far off left out" if line.left_out else ""
    return f"{what:12} = {intercept} + {slope} × {unit}   R² {line.r_squared:.4f}{without}"


def draw(profile: Profile, path: Path) -> None:
    """The points and the lines through them."""
    drawn = [("prefill", _unit(profile), profile.measured.prefill, profile.prefill)]
    if profile.decode is not None:
        drawn.insert(0, ("decode step", "streams", profile.measured.decode, profile.decode))
    figure = figure_type()(figsize=(5 * len(drawn), 4), layout="constrained")
    for axes, (title, unit, points, line) in zip(_axes(figure, len(drawn)), drawn, strict=True):
        xs = sorted({x for x, _ in points})
        axes.plot([x for x, _ in points], [y for _, y in points], ".", color="#2d6a4f", alpha=0.5)
        axes.plot(xs, [line.at(x) for x in xs], color="#c8553d", label=f"R² {line.r_squared:.4f}")
        axes.set(title=title, xlabel=unit, ylabel="ms", ylim=(0, 1.5 * line.at(xs[-1])))  # far off is far off
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, dpi=110)


def _axes(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])
