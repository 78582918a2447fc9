"""The table: every method on every clip, with intervals, a paper trail and strips to look at.

Knows no model: a method is an `Interpolator`, and one that needs the truth itself (an autoencoder's round
trip, the ceiling of everything behind it) is a `Restorer`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .baselines import Interpolator
from .clips import Clip, large_motion
from .metrics import Scores, flows, paired_bootstrap, score

Restorer = Callable[[Tensor], Tensor]
"""f(clip [t, H, W, 3]) -> the same film [t, H, W, 3] after a lossy round trip."""

SMALLEST = 16  # SSIM's window takes 11 pixels, OpenCV's DIS flow 12


@dataclass(frozen=True)
class Row:
    """One method on one clip.

    large  the clip moves more than the median of its set
    calls  of the model, see `run`
    """

    set: str
    clip: str
    motion: float
    large: bool
    method: str
    scores: Scores
    seconds: float
    calls: int = 0


def run(
    interpolators: dict[str, Interpolator],
    sets: dict[str, list[Clip]],
    out: Path,
    restorers: dict[str, Restorer] | None = None,
    reference: str = "linear",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    calls: Callable[[], int] = lambda: 0,
) -> str:
    """The Markdown table of all methods on all sets; the folder ``out`` gets what stands behind it.

    interpolators  name -> method; paired differences of PSNR are taken against the one named ``reference``
    sets           name -> clips
    restorers      name -> round trip of the truth
    out            results.csv (a line per method and clip), table.md, <set>-small.png and <set>-large.png:
                   the clips at the first and the third quarter of the set's motion
    progress       called with (methods run so far, all)
    calls          how often a model has been asked so far; methods that ask one get it counted
    Raises ValueError for a set without clips, clips too small to measure, an unknown reference, or a method
    that returns wrong frames.
    """
    if reference not in interpolators:
        raise ValueError(f"the reference '{reference}' is none of the methods ({', '.join(interpolators)})")
    if empty := [name for name, clips in sets.items() if not clips]:
        raise ValueError(f"the set '{empty[0]}' has no clips; give a folder that holds some")
    for clip in (clip for clips in sets.values() for clip in clips):
        if min(clip.frames.shape[1:3]) < SMALLEST:
            height, width = clip.frames.shape[1:3]
            raise ValueError(
                f"the clip '{clip.name}' is {width}x{height}; use {SMALLEST} pixels or more a side"
            )
    methods: dict[str, Restorer] = {name: _between(f) for name, f in interpolators.items()}
    methods |= {name: _inside(f) for name, f in (restorers or {}).items()}
    total, rows = len(methods) * sum(map(len, sets.values())), []
    out.mkdir(parents=True, exist_ok=True)
    unfinished = (
        out / "results.csv.part"
    )  # a line as soon as it is known: long runs leave a trail when they stop
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for name, clips in sets.items():
            shown = {_at_quarter(clips, 1): "small", _at_quarter(clips, 3): "large"}
            for i, (clip, large) in enumerate(zip(clips, large_motion(clips), strict=True)):
                of_clip, films = flows(clip.frames), {"truth": clip.frames}
                for method, generate in methods.items():
                    start, asked = time.perf_counter(), calls()
                    generated = generate(clip.frames)
                    seconds, asked = time.perf_counter() - start, calls() - asked
                    try:
                        scores = score(generated, clip.frames, of_clip)
                    except ValueError as error:
                        raise ValueError(f"'{method}' on the clip '{clip.name}': {error}") from error
                    row = Row(name, clip.name, clip.motion, large, method, scores, seconds, asked)
                    line = {k: v for k, v in asdict(row).items() if k != "scores"} | asdict(scores)
                    if not rows:
                        writer.writerow(line)
                    writer.writerow(line.values())
                    file.flush()
                    rows.append(row)
                    films[method] = torch.cat([clip.frames[:1], generated.to(clip.frames), clip.frames[-1:]])
                    progress(len(rows), total)
                if i in shown:
                    strip(films).save(out / f"{name}-{shown[i]}.png")
    unfinished.replace(out / "results.csv")
    text = "\n\n".join(_section(name, [r for r in rows if r.set == name], reference, seed) for name in sets)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


def summary(rows: list[Row], reference: str, seed: int = 0) -> str:
    """A Markdown table with a line per method: means over the clips of ``rows``.

    "flow" is the summed DIS flow of the films over that of the truth (clips at rest would upset a mean of
    ratios); then the mean paired difference of PSNR against ``reference`` with its 95 % interval; the calls
    of the model for a film, and the time of all films as a ratio to the first method that asks it.
    """
    of: dict[str, dict[str, Scores]] = {}
    for r in rows:
        of.setdefault(r.method, {})[r.clip] = r.scores
    cost = {
        m: (sum(r.calls for r in rows if r.method == m), sum(r.seconds for r in rows if r.method == m))
        for m in of
    }
    unit = next((seconds for calls, seconds in cost.values() if calls), 0.0)
    head = [
        "method",
        "PSNR all",
        "PSNR centre",
        "SSIM",
        "tOF px",
        "sharpness",
        "flow",
        f"PSNR - {reference} [95 %]",
        *(["calls", "time"] if unit else []),
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for method, clips in of.items():
        scores = list(clips.values())
        mean = {k: float(np.mean([getattr(s, k) for s in scores])) for k in Scores.__annotations__}
        flow = mean["flow"] / mean["flow_truth"] if mean["flow_truth"] else float("nan")
        # Equal first: inf - inf, both frames perfect, is no difference.
        pairs = [(s.psnr, of[reference][clip].psnr) for clip, s in clips.items()]
        differences = [0.0 if a == b else a - b for a, b in pairs]
        low, high = paired_bootstrap(differences, seed)
        gain = "" if method == reference else f"{np.mean(differences):+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(
            [method, f"{mean['psnr']:.2f}", f"{mean['psnr_centre']:.2f}", f"{mean['ssim']:.3f}"]
            + [f"{mean['tof']:.2f}", f"{mean['sharpness']:.2f}", f"{flow:.2f}", gain]
        )
        calls, seconds = cost[method]
        if unit:
            lines[-1] += [f"{calls / len(clips):g}", f"x{seconds / unit:.2f}"] if calls else ["", ""]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def strip(films: dict[str, Tensor], cell: int = 96) -> Image.Image:
    """A row of frames for each film, named on the left; small frames are enlarged, pixels kept.

    films  name -> [t, H, W, 3], all of one size
    """
    t, height, width, _ = next(iter(films.values())).shape
    scale = max(1, round(cell / height))
    height, width, label, gap = height * scale, width * scale, 150, 2
    sheet = Image.new("RGB", (label + t * (width + gap), len(films) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, film) in enumerate(films.items()):
        top = row * (height + gap)
        draw.text((6, top + height // 2 - 6), name, fill="black")
        for column, frame in enumerate((film.clamp(0, 1) * 255).round().byte().cpu().numpy()):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (label + column * (width + gap), top))
    return sheet


def _between(interpolate: Interpolator) -> Restorer:
    return lambda clip: interpolate(clip[0], clip[-1], len(clip) - 2)


def _inside(restore: Restorer) -> Restorer:
    return lambda clip: restore(clip)[1:-1]


def _at_quarter(clips: list[Clip], quarter: int) -> int:
    order = np.argsort([clip.motion for clip in clips], kind="stable")
    return int(order[(len(order) - 1) * quarter // 4])


def _section(name: str, rows: list[Row], reference: str, seed: int) -> str:
    large = [r for r in rows if r.large]
    count, count_large = (len({r.clip for r in some}) for some in (rows, large))
    text = f"### {name}: all {count} clips\n\n{summary(rows, reference, seed)}"
    if large:
        motion = min(r.motion for r in large)
        text += f"\n\n### {name}: the {count_large} clips with large motion "
        text += f"(DIS flow from first to last at least {motion:.1f} px)"
        text += f"\n\n{summary(large, reference, seed)}"
    return text
