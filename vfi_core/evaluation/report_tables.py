"""What the report's tables say: means, which of them is best, and paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .metrics import FEWEST, paired_bootstrap
from .report_folder import Evaluation, Line


@dataclass(frozen=True)
class Metric:
    """A column.

    key     of results.csv, or of config.json's "set_metrics"; "flow" is the ratio of two columns
    better  "high", "low", "one" (nearest to 1), or "" for what is no merit of the pictures
    over    what it is measured on, the head above the column
    """

    key: str
    name: str
    better: str
    digits: int
    over: str
    says: str


METRICS = (
    Metric("psnr", "PSNR dB", "high", 2, "all frames", "peak signal-to-noise ratio"),
    Metric("ssim", "SSIM", "high", 3, "all frames", "structural similarity, Gaussian window 11/1.5"),
    Metric("lpips", "LPIPS", "low", 3, "all frames", "learned perceptual distance"),
    Metric("flip", "FLIP", "low", 3, "all frames", "perceived difference when flipping between the two"),
    Metric("tof", "tOF px", "low", 2, "all frames", "mean difference of the optical flows of film and truth"),
    Metric("sharpness", "sharpness", "one", 2, "all frames", "mean Laplacian as a ratio to the truth's"),
    Metric("flow", "flow", "one", 2, "all frames", "summed motion as a ratio to the truth's"),
    Metric("psnr_centre", "PSNR dB", "high", 2, "centre frame", "the centre frame's alone"),
    Metric("ssim_centre", "SSIM", "high", 3, "centre frame", "the centre frame's alone"),
    Metric("lpips_centre", "LPIPS", "low", 3, "centre frame", "the centre frame's alone"),
    Metric("flip_centre", "FLIP", "low", 3, "centre frame", "the centre frame's alone"),
    Metric("endpoint", "endpoint", "low", 4, "given frames", "mean change of the two given frames"),
    Metric("fid", "FID", "low", 1, "whole set", "Fréchet distance of pictures"),
    Metric("fvd", "FVD", "low", 0, "whole set", "Fréchet distance of films"),
    Metric("calls", "calls", "", 0, "cost of a clip", "how often the model was asked"),
    Metric("seconds", "seconds", "", 2, "cost of a clip", "on the machine that ran it"),
)
PSNR = METRICS[0]
TOF = next(m for m in METRICS if m.key == "tof")


@dataclass(frozen=True)
class Cell:
    """A number of a table: as it is sorted, as it is shown, and how many clips it stands for."""

    value: float | None
    text: str
    clips: int = 0
    best: bool = False


@dataclass(frozen=True)
class Difference:
    """The mean paired difference over ``clips`` clips, and on how many it is the better.

    ends     of its 95 % interval; None for fewer clips than FEWEST
    verdict  "better" or "worse" where the interval leaves out zero, else ""
    """

    mean: float
    ends: tuple[float, float] | None
    better: int
    clips: int
    verdict: str


@dataclass(frozen=True)
class Against:
    """A method's differences: to the reference, and of ours to it; None where there is nothing to compare."""

    method: str
    reference: dict[str, Difference | None]
    ours: dict[str, Difference | None]


@dataclass(frozen=True)
class Third:
    """Clips of a set that move alike: least and most motion in pixels, and a column for each metric."""

    name: str
    clips: int
    motion: tuple[float, float]
    columns: dict[str, dict[str, Cell]]
    gains: dict[str, Difference | None]


def mean(lines: Iterable[Line], key: str) -> tuple[float | None, int]:
    """The mean of a metric over the lines that have it, and their number; None where there are none.

    "flow" is the films' summed flow over the truth's: clips at rest would upset a mean of ratios.
    """
    if key == "flow":
        pairs = [(v["flow"], v["flow_truth"]) for v in _values(lines) if {"flow", "flow_truth"} <= v.keys()]
        below = math.fsum(truth for _, truth in pairs)
        return (math.fsum(flow for flow, _ in pairs) / below if below else None), len(pairs)
    values = [v[key] for v in _values(lines) if key in v]
    return (math.fsum(values) / len(values) if values else None), len(values)


def column(
    metric: Metric, lines: dict[str, list[Line]], of_set: dict[str, float], ceilings: set[str]
) -> dict[str, Cell]:
    """A cell for each method; the best is marked, and what reads the same.

    lines     method -> its lines
    of_set    method -> the metric of the whole set, where it has no values clip by clip
    ceilings  methods that saw the truth: they win nothing
    """
    found = {
        m: (of_set[m], len(some)) if m in of_set else mean(some, metric.key) for m, some in lines.items()
    }
    merit = {m: _merit(metric, v) for m, (v, _) in found.items() if v is not None and m not in ceilings}
    texts = {m: shown(v, metric.digits) for m, (v, _) in found.items()}
    # What reads the same as the best is as good: the digits shown are those that mean something.
    top = texts[max(merit, key=merit.__getitem__)] if merit and metric.better else None
    return {m: Cell(v, texts[m], n, m in merit and texts[m] == top) for m, (v, n) in found.items()}


def difference(metric: Metric, lines: list[Line], others: list[Line], seed: int) -> Difference | None:
    """``lines`` minus ``others``, clip by clip where both have the metric; None where no clip has."""
    there = {line.clip: line.values[metric.key] for line in others if metric.key in line.values}
    pairs = [
        (line.values[metric.key], there[line.clip])
        for line in lines
        if metric.key in line.values and line.clip in there
    ]
    if not pairs:
        return None
    # Equal first: inf - inf, both films perfect, is no difference.
    gaps = [0.0 if a == b else a - b for a, b in pairs]
    sign = -1 if metric.better == "low" else 1
    better = sum(sign * gap > 0 for gap in gaps)
    ends, verdict = None, ""
    if len(gaps) >= FEWEST:
        ends = low, high = paired_bootstrap(gaps, seed)
        verdict = "" if low <= 0 <= high else "better" if sign * low > 0 else "worse"
    return Difference(sum(gaps) / len(gaps), ends, better, len(gaps), verdict)


def gains(e: Evaluation, of: dict[str, list[Line]]) -> dict[str, float]:
    """What ours gains over the reference in PSNR on each clip; its PSNR where it is the reference itself."""
    ours, there = (
        {line.clip: line.values.get("psnr") for line in of.get(m, [])} for m in (e.ours, e.reference)
    )
    if e.ours == e.reference:
        return {clip: value for clip, value in ours.items() if value is not None}
    pairs = {clip: (value, there.get(clip)) for clip, value in ours.items()}
    return {
        clip: 0.0 if a == b else a - b for clip, (a, b) in pairs.items() if a is not None and b is not None
    }


def against(e: Evaluation, of: dict[str, list[Line]], method: str) -> Against:
    """The differences of one method in PSNR and tOF; ``of``: method -> its lines of a set."""

    def compare(a: str, b: str) -> dict[str, Difference | None]:
        return {
            k.key: difference(k, of.get(a, []), of.get(b, []), e.seed) if a != b else None
            for k in (PSNR, TOF)
        }

    return Against(method, compare(method, e.reference), compare(e.ours, method))


def third_of(e: Evaluation, of: dict[str, list[Line]], name: str) -> Third:
    """The clips called ``name`` alone, which has one at least; ``of``: method -> its lines of a set."""
    some = {m: [line for line in lines if line.third == name] for m, lines in of.items()}
    motion = {line.clip: line.motion for lines in some.values() for line in lines}.values()
    there = some.get(e.reference, [])
    return Third(
        name,
        len(motion),
        (min(motion), max(motion)),
        {k.key: column(k, some, {}, e.ceilings) for k in (PSNR, TOF)},
        {
            m: difference(PSNR, lines, there, e.seed) if m != e.reference else None
            for m, lines in some.items()
        },
    )


def shown(value: float | None, digits: int, sign: bool = False) -> str:
    """A number as people read it: a true minus, the sign for infinity, a dash for what was not measured."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return ("−" if value < 0 else "+" if sign else "") + "∞"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if not float(text):  # neither +0.00 nor -0.00
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _values(lines: Iterable[Line]) -> list[dict[str, float]]:
    return [line.values for line in lines]


def _merit(metric: Metric, value: float) -> float:
    return {"low": -value, "one": -abs(value - 1)}.get(metric.better, value)
