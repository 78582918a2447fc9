"""Markdown tables of the rows of an evaluation: a method a line, means over clips, paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .clips import THIRDS
from .metrics import FEWEST, paired_bootstrap
from .results import METRICS, Row

Means = Mapping[str, float | None]
# Head of a column, key, how it is written; a column whose every cell is null is left out.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("PSNR all", "psnr", ".2f"),
    ("PSNR centre", "psnr_centre", ".2f"),
    ("SSIM all", "ssim", ".3f"),
    ("SSIM centre", "ssim_centre", ".3f"),
    ("LPIPS all", "lpips", ".3f"),
    ("LPIPS centre", "lpips_centre", ".3f"),
    ("FLIP all", "flip", ".3f"),
    ("FLIP centre", "flip_centre", ".3f"),
    ("FID", "fid", ".2f"),
    ("FVD", "fvd", ".1f"),
    ("tOF px", "tof", ".2f"),
    ("sharpness", "sharpness", ".2f"),
    ("flow", "flow_ratio", ".2f"),
    ("endpoint", "endpoint", ".4f"),
)


def tables(rows: Sequence[Row], config: Mapping, seed: int = 0) -> str:
    """Every set's table, and one for each third of its clips by motion.

    config  as in config.json: sets, methods {slug: label}, reference, set_metrics, notes
    """
    parts = []
    for name, told in config["sets"].items():
        mine = [r for r in rows if r.set == name]
        whole = config.get("set_metrics", {}).get(name, {})
        parts.append(f"### {name}: all {told['clips']} clips\n\n{told['about']}")
        parts.append(summary(mine, config["methods"], config["reference"], seed, whole))
        for third in THIRDS:
            some = [r for r in mine if r.third == third]
            motions = [r.motion for r in some]
            if some:
                parts.append(
                    f"### {name}: the {len({r.clip for r in some})} clips of {third} motion "
                    f"(mean DIS flow from first to last {min(motions):.1f} to {max(motions):.1f} px)"
                )
                parts.append(summary(some, config["methods"], config["reference"], seed))
    return "\n\n".join([*parts, *config["notes"]])


def summary(
    rows: Sequence[Row],
    labels: Mapping[str, str],
    reference: str,
    seed: int = 0,
    whole: Mapping[str, Means] | None = None,
) -> str:
    """A Markdown table with a line per method: means over the clips of ``rows``.

    "flow" is the summed DIS flow of the films over that of the truth (clips at rest would upset a mean of
    ratios); then the mean paired difference of PSNR against ``reference`` with its 95 % interval; the calls
    of the model for a film, and the time of all films as a ratio to the first method that asks it.

    whole  slug -> {"fid", "fvd"}, which belong to sets, not to clips
    """
    of = {slug: mine for slug in labels if (mine := [r for r in rows if r.method == slug])}
    clips = max(map(len, of.values()), default=0)
    means = {slug: {**_means(mine), **(whole or {}).get(slug, {})} for slug, mine in of.items()}
    columns = [c for c in COLUMNS if any(m.get(c[1]) is not None for m in means.values())]
    unit = next((s for mine in of.values() if _sum(mine, "calls") and (s := _sum(mine, "seconds"))), 0.0)
    gain = [f"PSNR - {labels[reference]} [95 %]"] if reference in of else []
    head = ["method", *(c[0] for c in columns), *gain, *(["calls", "time"] if unit else [])]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for slug, mine in of.items():
        label = labels[slug] if len(mine) == clips else f"{labels[slug]} ({len(mine)} of {clips} clips)"
        line = [label, *(_cell(means[slug].get(key), how) for _, key, how in columns)]
        if gain:
            line.append("" if slug == reference else paired(mine, of[reference], seed))
        if unit:
            calls = _sum(mine, "calls")
            line += [f"{calls / len(mine):g}", f"x{_sum(mine, 'seconds') / unit:.2f}"] if calls else ["", ""]
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paired(rows: Sequence[Row], others: Sequence[Row], seed: int = 0) -> str:
    """Mean difference of PSNR on the clips that both have, with its 95 % interval from `FEWEST` on."""
    theirs = {r.clip: r.scores.psnr for r in others}
    pairs = [(r.scores.psnr, theirs[r.clip]) for r in rows if r.clip in theirs]
    if not pairs:
        return ""
    # Equal first: inf - inf, both frames perfect, is no difference.
    differences = [0.0 if a == b else a - b for a, b in pairs]
    mean = f"{np.mean(differences):+.2f}"
    if len(pairs) < FEWEST:
        return mean
    low, high = paired_bootstrap(differences, seed)
    return f"{mean} [{low:+.2f}, {high:+.2f}]"


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    values = {k: [getattr(r.scores, k) for r in rows] for k in METRICS}
    means = {k: None if None in v else float(np.mean(v)) for k, v in values.items()}
    truth, flow = means["flow_truth"], means["flow"]
    return means | {"flow_ratio": flow / truth if flow is not None and truth else None}


def _sum(rows: Sequence[Row], name: str) -> float:
    return sum(getattr(r, name) for r in rows)


def _cell(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)
