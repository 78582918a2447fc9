"""The model card: what lies beside a trained adapter, for whoever gets the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapter import Adapter
from ..files import replace_text
from .journal import LOSSES, Row
from .rows import read_rows
from .settings import TrainConfig
from .validation import FIGURES

LATELY = 100  # steps
INHERITED = (
    "The weights are a derivative of the base model. Where that is Stability AI's Stable Video Diffusion, "
    "Stability's community licence holds for them, with its limits on commercial use: pass it on with them."
)


def write_card(out: Path, adapter_file: Path, adapter: Adapter, train: TrainConfig, licence: str) -> Path:
    """OUT/README.md about the finished ``adapter_file``, from what the run left beside it."""
    told = dict(adapter.training)
    base = told["base"]
    model = "" if base.startswith("tiny_svd") else f" --model {base}"
    parts = [
        f"# {adapter_file.stem}",
        f"An adapter of SVD Video Frame Interpolation for `{base}`: two frames in, the film between them "
        "out.",
        "## Use",
        f"In ComfyUI: put `{adapter_file.name}` into `models/svd_vfi`, refresh, and choose it in *SVD VFI "
        "Load Adapter* or *SVD VFI Load Checkpoint*. In a shell:",
        f"```\nsvd-vfi interpolate first.png last.png{model} --adapter {adapter_file.name} -o film.mp4\n```",
        f"It knows clips of {told['frames']} frames at {told['size'][1]}x{told['size'][0]} pixels; size, "
        "fps, motion bucket, augmentation and guidance stand in the file and are used unless others are "
        "asked for.",
        "## Data",
        told.get("data", "not told"),
        "## Figures",
        "\n".join(_figures(out)),
        "## Options",
        _table(dataclasses.asdict(adapter.options)),
        "## Settings",
        _table(_flat(dataclasses.asdict(train))),
        "All of them are in `config.toml`; with the same data it trains the same adapter again.",
        "## Licence",
        licence if licence == "Apache-2.0" and not model else f"{licence}. {INHERITED}",
    ]
    path = out / "README.md"
    replace_text(path, "\n\n".join(parts) + "\n")
    return path


def _figures(out: Path) -> list[str]:
    rows = [Row.of(texts) for texts in read_rows(out / LOSSES, 10**12)]
    if not rows:
        return ["No losses were kept."]
    lately = [row.loss for row in rows[-LATELY:]]
    hours = sum(row.seconds for row in rows) / 3600
    lines = [
        f"- {len(rows)} steps, {hours:.2f} hours; mean loss of the last {len(lately)}: "
        f"{sum(lately) / len(lately):.4f} (`{LOSSES}`, `loss.png`)"
    ]
    films = read_rows(out / "validation" / FIGURES, 10**12)
    last = max((int(row[0]) for row in films), default=0)
    lines += [
        f"- validation after {step} steps, {name}: {float(psnr):.2f} dB"
        for step, name, psnr in films
        if int(step) == last
    ]
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
