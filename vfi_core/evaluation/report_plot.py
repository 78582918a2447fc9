"""The report's drawings as plain geometry: its template turns them into SVG.

SVG of our own rather than matplotlib's: colours follow the page's, light or dark, a point tells its clip, and
nothing more is installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .report_folder import Line
from .report_tables import Difference, Metric

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 40
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
CLIPS = 150  # points drawn of each method at most
BINS = 6  # of motion, with as many clips each
WHISKER = 160  # pixels a drawn interval is wide


@dataclass(frozen=True)
class Curve:
    """One method: a line through means over bins of motion, and a point for a clip (x, y, what it is)."""

    method: str
    line: list[tuple[float, float]]
    points: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Plot:
    """A metric against motion, in pixels of a picture of WIDTH x HEIGHT. Ticks are (place, number)."""

    name: str
    curves: list[Curve]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    left_out: int  # clips without a point


@dataclass(frozen=True)
class Axis:
    """What the drawn intervals of a column share: its finite ends and zero, on WHISKER pixels."""

    low: float
    high: float

    def holds(self, d: Difference) -> bool:
        """Whether there is an interval that can be drawn."""
        return d.ends is not None and self.low <= d.ends[0] and d.ends[1] <= self.high

    def at(self, value: float) -> float:
        """Its place in pixels, half a dot off the edges."""
        return round(5 + (value - self.low) / ((self.high - self.low) or 1) * (WHISKER - 10), 1)


def axis(differences: Iterable[Difference | None]) -> Axis:
    """The axis on which all the finite intervals have their place."""
    ends = [end for d in differences if d and d.ends for end in d.ends if math.isfinite(end)]
    return Axis(min(0.0, *ends, 0.0), max(0.0, *ends, 0.0))


def against_motion(metric: Metric, lines: dict[str, list[Line]], labels: dict[str, str]) -> Plot | None:
    """The plot of a metric for each method; None where no clip has a finite value.

    Motion runs on a logarithmic axis from the stillest clip on, but not below 0.1 pixels.
    """
    finite = {
        m: sorted(
            (max(line.motion, 0.1), line.values[metric.key], line.clip)
            for line in some
            if math.isfinite(line.values.get(metric.key, math.nan))
        )
        for m, some in lines.items()
    }
    every = [point for points in finite.values() for point in points]
    if not every:
        return None
    names = sorted({(x, clip) for x, _, clip in every})
    kept = {names[i][1] for i in np.linspace(0, len(names) - 1, min(CLIPS, len(names))).round().astype(int)}
    x_low, x_high = _room(*(f(math.log10(x) for x, _, _ in every) for f in (min, max)))
    y_low, y_high = _room(*(f(y for _, y, _ in every) for f in (min, max)))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1),
        )

    curves = [
        Curve(
            m,
            [place(*point) for point in _binned(points)],
            [
                (*place(x, y), f"{labels[m]}, {clip}: {metric.name} {y:.{metric.digits}f}, motion {x:.1f} px")
                for x, y, clip in points
                if clip in kept
            ],
        )
        for m, points in finite.items()
    ]
    across = [x * 10.0**e for e in range(-1, 4) for x in (1, 2, 5)]
    return Plot(
        metric.name,
        curves,
        [(place(x, y_low)[0], f"{x:g}") for x in across if x_low <= math.log10(x) <= x_high],
        [(place(1, y)[1], f"{y:g}") for y in _round_numbers(y_low, y_high)],
        len(names) - len(kept),
    )


def _binned(points: list[tuple[float, float, str]]) -> list[tuple[float, float]]:
    """Means (motion, metric) of bins that hold as many clips each, three at the least."""
    parts = np.array_split(np.array([point[:2] for point in points]), max(1, min(BINS, len(points) // 3)))
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts if len(part)]


def _room(low: float, high: float) -> tuple[float, float]:
    """A little more than low..high, so that no point lies on the frame."""
    margin = (high - low) * 0.04 or 0.5
    return low - margin, high + margin


def _round_numbers(low: float, high: float) -> list[float]:
    """About six multiples of 1, 2 or 5 times a power of ten within low..high."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(unit * f for f in (1, 2, 5, 10) if (high - low) / (unit * f) <= 7)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
