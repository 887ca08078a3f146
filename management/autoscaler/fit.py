"""Straight lines through measurements, with what is known of their error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Line:
    """intercept + slope·x, each with half the width of its 95 % interval, and the share of variance explained."""

    intercept: float
    slope: float
    intercept_margin: float
    slope_margin: float
    r_squared: float

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


class TooFewPoints(ValueError):
    """A line needs measurements at two different places."""


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares; neither coefficient is below zero, since no time is."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(set(x)) < 2:
        raise TooFewPoints(f"{len(x)} measurements at {len(set(x))} different places: a line needs two")
    spread = float(((xs - xs.mean()) ** 2).sum())
    slope = max(float(((xs - xs.mean()) * (ys - ys.mean())).sum()) / spread, 0.0)
    intercept = float(ys.mean()) - slope * float(xs.mean())
    if intercept < 0:
        intercept, slope = 0.0, float((xs * ys).sum() / (xs**2).sum())
    rest = float(((ys - intercept - slope * xs) ** 2).sum())
    freedom = len(xs) - 2
    error = math.sqrt(rest / freedom) if freedom > 0 else math.nan
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) if freedom > 0 else math.nan
    total = float(((ys - ys.mean()) ** 2).sum())
    return Line(
        intercept,
        slope,
        quantile * error * math.sqrt(1 / len(xs) + float(xs.mean()) ** 2 / spread),
        quantile * error / math.sqrt(spread),
        1 - rest / total if total > 0 else 1.0,
    )
