"""What the report says about one set of clips, put together from its numbers, drawings and films."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .report_films import Film, Purse, extremes, film_of
from .report_folder import Evaluation, Line
from .report_plot import Axis, Plot, against_motion, axis
from .report_tables import (
    METRICS,
    PSNR,
    TOF,
    Against,
    Cell,
    Metric,
    Third,
    against,
    column,
    gains,
    shown,
    third_of,
)

LISTED = 400  # clips with their numbers in the list at most
THIRDS = ("small", "medium", "large")


@dataclass(frozen=True)
class Clip:
    """A clip with its numbers as text, method -> metric -> number.

    gain  of ours over the reference, dB
    film  its pictures where it is shown with them, and where they are there and have room; else why not
    """

    name: str
    motion: float
    third: str
    gain: float
    numbers: dict[str, dict[str, str]]
    film: Film | None = None
    why_none: str = ""


@dataclass(frozen=True)
class Section:
    """All that is said about one set.

    columns  metric -> method -> cell
    axes     of the drawn differences: PSNR and tOF to the reference, then of ours
    """

    name: str
    about: dict[str, Any]
    clips: int
    methods: list[str]
    columns: dict[str, dict[str, Cell]]
    against: list[Against]
    axes: list[Axis]
    thirds: list[Third]
    plots: list[Plot]
    best: list[Clip]
    worst: list[Clip]
    listed: list[Clip]

    @property
    def metrics(self) -> list[Metric]:
        """Those that any method has."""
        return [m for m in METRICS if any(cell.value is not None for cell in self.columns[m.key].values())]

    @property
    def unmeasured(self) -> list[str]:
        """Names of those that none has."""
        there = {m.name for m in self.metrics}
        return list(dict.fromkeys(m.name for m in METRICS if m.name not in there))

    @property
    def heads(self) -> list[tuple[str, int]]:
        """What the columns are measured on, and how many of them."""
        return [(over, len(list(some))) for over, some in groupby(self.metrics, lambda m: m.over)]

    def best_of(self, key: str) -> list[str]:
        """The methods marked best in a column."""
        return [m for m in self.methods if self.columns[key][m].best]


def section_of(e: Evaluation, name: str, each: int, purse: Purse) -> Section:
    """The section about the set ``name``, with films of ``each`` clips at either end paid from ``purse``."""
    lines = [line for line in e.lines if line.set == name]
    of = {m: [line for line in lines if line.method == m] for m in e.labels}
    of = {m: some for m, some in of.items() if some}
    columns = {metric.key: column(metric, of, _whole(e, name, metric), e.ceilings) for metric in METRICS}
    psnr = {m: -math.inf if cell.value is None else cell.value for m, cell in columns["psnr"].items()}
    # By PSNR, as most of the field's tables are read; what has seen the truth comes last.
    methods = sorted(of, key=lambda m: (m in e.ceilings, -psnr[m]))
    in_films = sorted(methods, key=lambda m: (m != e.ours, m != e.reference))
    rivals = {m: of[m] for m in reversed(in_films) if m not in e.ceilings}  # ours last: drawn over the others
    differences = [against(e, of, m) for m in methods]
    clips = _clips(e, of, lines)
    best, worst = extremes({clip.name: clip.gain for clip in clips}, each)
    named = {clip.name: clip for clip in clips}
    half = LISTED // 2
    return Section(
        name=name,
        about=e.about(name),
        clips=len({line.clip for line in lines}),
        methods=methods,
        columns=columns,
        against=differences,
        axes=[
            axis(getattr(d, side)[metric.key] for d in differences if d.method in rivals)
            for side in ("reference", "ours")
            for metric in (PSNR, TOF)
        ],
        thirds=[third_of(e, of, third) for third in THIRDS if any(line.third == third for line in lines)],
        plots=[plot for metric in (PSNR, TOF) if (plot := against_motion(metric, rivals, e.labels))],
        best=[_with_film(e, name, named[clip], in_films, purse) for clip in best],
        worst=[_with_film(e, name, named[clip], in_films, purse) for clip in worst],
        listed=clips if len(clips) <= LISTED else clips[:half] + clips[-half:],
    )


def _whole(e: Evaluation, name: str, metric: Metric) -> dict[str, float]:
    """A metric of the whole set, for the methods that have it."""
    values = {m: of.get(metric.key) for m, of in e.config["set_metrics"].get(name, {}).items()}
    return {m: value for m, value in values.items() if value is not None}


def _clips(e: Evaluation, of: dict[str, list[Line]], lines: list[Line]) -> list[Clip]:
    """Every clip on which ours can be compared, best first."""
    here = {line.clip: line for line in lines}
    numbers: dict[str, dict[str, dict[str, str]]] = {}
    for line in lines:
        said = {k.key: shown(line.values.get(k.key), k.digits) for k in (PSNR, TOF)}
        numbers.setdefault(line.clip, {})[line.method] = said
    gained = gains(e, of)
    order = sorted(gained, key=lambda clip: (-gained[clip], clip))
    return [Clip(c, here[c].motion, here[c].third, gained[c], numbers[c]) for c in order]


def _with_film(e: Evaluation, name: str, clip: Clip, methods: list[str], purse: Purse) -> Clip:
    folder, frames = e.folder / "films" / name / clip.name, e.about(name)["frames"]
    film, why = purse.spend(lambda room: film_of(folder, methods, frames, room))
    return Clip(clip.name, clip.motion, clip.third, clip.gain, clip.numbers, film, why)
