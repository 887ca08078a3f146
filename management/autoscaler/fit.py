"""Times as a machine gives them, made into straight lines, with what is known of their error.

What else a machine does makes some times longer, never shorter: so neither means nor least squares alone will do here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
FAR = 3.0  # robust standard deviations: points further from the line are left out
FEWEST = 6  # points, before any is left out

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """intercept + slope·x, each with half the width of its 95 % interval, and the share of variance explained."""

    intercept: float
    slope: float
    intercept_margin: float
    slope_margin: float
    r_squared: float
    doubt: float  # half the width of the line's own interval, relative to its height, where that is largest
    left_out: int = 0  # points too far from the line

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


class TooFewPoints(ValueError):
    """A line needs measurements at two different places."""


def typical(values: Sequence[float]) -> float:
    """The mean of the half of the values that lie closest together: up to half of them may be anything."""
    return float(_closest_half(np.asarray(values, float)).mean())


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares without the points that lie far off; neither coefficient is below zero, since no time is."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    places = np.unique(xs)
    if len(places) < 2:
        raise TooFewPoints(f"{len(x)} measurements at {len(places)} different places: a line needs two")
    near = _near(xs, ys, places)
    if len(np.unique(xs[near])) < len(places):
        near = np.ones(len(xs), bool)  # what is far off everywhere at one place is no accident
    return _least_squares(xs[near], ys[near], left_out=int((~near).sum()))


def _near(xs: Floats, ys: Floats, places: Floats) -> NDArray[np.bool_]:
    """By their distance from the line through what is typical at each place."""
    if len(xs) < FEWEST:
        return np.ones(len(xs), bool)
    start = _least_squares(places, np.array([typical(ys[xs == place]) for place in places]), left_out=0)
    off = ys - start.intercept - start.slope * xs
    half = _closest_half(off)
    deviation = max(1.4826 / 2 * float(half[-1] - half[0]), 1e-9)  # the standard one, were they normal
    near: NDArray[np.bool_] = np.abs(off - half.mean()) <= FAR * deviation
    return near


def _closest_half(values: Floats) -> Floats:
    ordered = np.sort(values)
    size = len(ordered) // 2 + 1
    widths = ordered[size - 1 :] - ordered[: len(ordered) - size + 1]
    start = int(widths.argmin())
    return ordered[start : start + size]


def _least_squares(xs: Floats, ys: Floats, left_out: int) -> Line:
    spread = float(((xs - xs.mean()) ** 2).sum())
    slope = max(float(((xs - xs.mean()) * (ys - ys.mean())).sum()) / spread, 0.0)
    intercept = float(ys.mean()) - slope * float(xs.mean())
    if intercept < 0:
        intercept, slope = 0.0, float((xs * ys).sum() / (xs**2).sum())
    rest = float(((ys - intercept - slope * xs) ** 2).sum())
    freedom = len(xs) - 2
    error = math.sqrt(rest / freedom) if freedom > 0 else math.nan
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) if freedom > 0 else math.nan

    def margin(place: float) -> float:
        return quantile * error * math.sqrt(1 / len(xs) + (place - float(xs.mean())) ** 2 / spread)

    ends = (float(xs.min()), float(xs.max()))
    heights = [intercept + slope * end for end in ends]
    total = float(((ys - ys.mean()) ** 2).sum())
    return Line(
        intercept,
        slope,
        margin(0.0),
        quantile * error / math.sqrt(spread),
        1 - rest / total if total > 0 else 1.0,
        max(margin(end) / height if height > 0 else math.nan for end, height in zip(ends, heights, strict=True)),
        left_out,
    )
