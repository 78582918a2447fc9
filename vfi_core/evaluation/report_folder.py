"""What an evaluation left in a folder: results.csv, a line for each method on each clip, and config.json."""

from __future__ import annotations

import csv
import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .baselines import BASELINES

CONFIG = {"command": "", "date": "", "versions": {}, "settings": {}, "reference": "", "ours": ""}
CONFIG |= {"methods": {}, "sets": {}, "notes": [], "set_metrics": {}}
NAMES = {"set", "clip", "motion", "third", "method"}
SET = {"about": "", "frames": None, "note": ""}  # what config.json says about a set


@dataclass(frozen=True)
class Line:
    """One method on one clip. ``values`` holds the metrics by their columns' names; a null is left out."""

    set: str
    clip: str
    motion: float
    third: str
    method: str
    values: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """A result folder, read: its lines, its config, and the parts its methods play."""

    folder: Path
    lines: list[Line]
    config: dict[str, Any]
    labels: dict[str, str]
    reference: str
    ours: str
    ceilings: set[str]

    @property
    def command(self) -> str:
        """As it was typed."""
        command = self.config["command"]
        return command if isinstance(command, str) else shlex.join(map(str, command))

    @property
    def seed(self) -> int:
        """Of the noise, and here of the bootstrap."""
        return int(self.config.get("seed") or self.config["settings"].get("seed") or 0)

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are a word or a number."""
        return {k: v for k, v in self.config["settings"].items() if v and isinstance(v, str | int | float)}

    def about(self, name: str) -> dict[str, Any]:
        """What the config says about a set, with SET's keys at the least."""
        return SET | self.config["sets"].get(name, {})


def read_evaluation(out: Path) -> Evaluation:
    """What results.csv and config.json in ``out`` say.

    The reference is config's, else "linear", else the first method. Ours, the method in view, is config's
    "ours", else the first that asks a model and is no bare base, else the first that is no baseline. A
    ceiling is a round trip "of the truth".
    Raises ValueError where they are missing or cannot be read, or a name is in one and not in the other.
    """
    lines = _lines(out / "results.csv")
    try:
        said = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config = CONFIG | {key: value for key, value in said.items() if value is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{out / 'config.json'} cannot be read ({error}); give a folder that svd-vfi evaluate wrote"
        ) from error
    methods = list(dict.fromkeys(line.method for line in lines))
    named = config["methods"]
    labels = {m: named[m] for m in named if m in methods} | {m: m for m in methods if m not in named}
    reference = config["reference"] or ("linear" if "linear" in labels else methods[0])
    if reference not in labels:
        raise ValueError(
            f"the reference '{reference}' of {out / 'config.json'} has no line in results.csv; evaluate it"
        )
    ceilings = {m for m, label in labels.items() if "of the truth" in label}
    asking = {line.method for line in lines if line.values.get("calls")} - ceilings
    ranked = [
        *(m for m in labels if m == config["ours"]),
        *(m for m in labels if m in asking and not labels[m].startswith("base")),
        *(m for m in labels if m in asking),
        *(m for m in labels if m not in ceilings and not {m, labels[m]} & BASELINES.keys()),
        *(m for m in labels if m not in ceilings and m != reference),
        reference,
    ]
    return Evaluation(out, lines, config, labels, reference, ranked[0], ceilings)


def _lines(path: Path) -> list[Line]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give a folder that svd-vfi evaluate wrote"
        ) from error
    if not table:
        raise ValueError(f"{path} holds no results; let svd-vfi evaluate finish a clip first")
    if absent := sorted((NAMES | {"psnr"}) - table[0].keys()):
        raise ValueError(
            f"{path} has no column {', '.join(absent)}; give a folder that svd-vfi evaluate wrote"
        )
    return [_line(path, i, row) for i, row in enumerate(table, 2)]


def _line(path: Path, number: int, row: dict[str, str]) -> Line:
    try:
        values = {k: float(v) for k, v in row.items() if k not in NAMES and v}
        known = {k: v for k, v in values.items() if not math.isnan(v)}
        return Line(row["set"], row["clip"], float(row["motion"]), row["third"], row["method"], known)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"line {number} of {path} does not fit its head ({error}); mend or delete that line"
        ) from error
