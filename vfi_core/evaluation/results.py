"""The folder an evaluation leaves: a line per clip and method, every film, and what was asked for.

    results.csv                             a line for each set, clip and method; an empty cell is null
    config.json                             command, versions, settings, sets, methods {slug: label}, notes
    films/<set>/<clip>/<method>.webp        all t frames side by side, lossless; truth.webp beside them

It is written as the work goes on: a run that was stopped goes on behind the last line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..files import replace_text, replacing
from .metrics import Scores

WIDEST = 16383  # pixels of a WebP
SAME = (
    "settings",
    "sets",
    "methods",
)  # of two configurations, for the results of one to be those of the other


@dataclass(frozen=True)
class Row:
    """One method on one clip.

    third   of its set's clips by motion: small, medium or large
    method  its slug
    calls   of the model
    """

    set: str
    clip: str
    motion: float
    third: str
    method: str
    scores: Scores
    seconds: float
    calls: int = 0


METRICS = tuple(f.name for f in fields(Scores))
COLUMNS = ("set", "clip", "motion", "third", "method", *METRICS, "seconds", "calls")


class Results:
    """The results in a folder, new or gone on with.

    out     the folder; made where it is not there
    config  JSON-able; what `SAME` names decides whether the folder's results are of this evaluation
    Raises ValueError where they are of another one, or the folder cannot be used.
    """

    def __init__(self, out: Path, config: dict[str, Any]) -> None:
        self.out, self.config = out, json.loads(json.dumps(config))
        self.rows: list[Row] = []
        out.mkdir(parents=True, exist_ok=True)
        if (out / "config.json").exists():
            self._check_same()
            self.rows = list(_read(out / "results.csv"))
        elif (out / "results.csv").exists():
            raise ValueError(f"{out} holds results without config.json; give another folder")
        self.write_config()
        self._rewrite()
        self._done = {(r.set, r.clip, r.method) for r in self.rows}

    def has(self, set: str, clip: str, method: str) -> bool:
        """Whether this was measured."""
        return (set, clip, method) in self._done

    def add(self, row: Row) -> None:
        """A line as soon as it is known; its film was kept before."""
        with open(self.out / "results.csv", "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(_cells(row))
        self.rows.append(row)
        self._done.add((row.set, row.clip, row.method))

    def keep_film(self, set: str, clip: str, method: str, film: Tensor) -> None:
        """A film [t, H, W, 3] of 8-bit values 0..1; half its size, or a third, where WebP holds no more."""
        path = self.film(set, clip, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        strip = Image.fromarray(np.concatenate(list((film * 255).round().byte().cpu().numpy()), axis=1))
        if (factor := shrink(film.shape)) > 1:
            t, height, width = film.shape[:3]
            strip = strip.resize((t * (width // factor), height // factor), Image.Resampling.BOX)
        with replacing(path) as partial:
            strip.save(partial, "webp", lossless=True, method=0, quality=20)

    def film(self, set: str, clip: str, method: str) -> Path:
        """Where a film lies."""
        return self.out / "films" / set / clip / f"{method}.webp"

    def read_film(self, set: str, clip: str, method: str) -> np.ndarray:
        """The film [t, H, W, 3] uint8 as it was kept."""
        with Image.open(self.film(set, clip, method)) as picture:
            strip = np.asarray(picture.convert("RGB"))
        return np.stack(np.split(strip, self.config["sets"][set]["frames"], axis=1))

    def write_config(self) -> None:
        """config.json as it is now."""
        replace_text(self.out / "config.json", json.dumps(self.config, indent=1) + "\n")

    def _check_same(self) -> None:
        path = self.out / "config.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            other = [(k, before[k], self.config[k]) for k in SAME if before[k] != self.config[k]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error!r}); give another folder") from error
        if other:
            key, old, new = other[0]
            inner = [k for k in {**old, **new} if old.get(k) != new.get(k)][0]
            raise ValueError(
                f"{self.out} holds another evaluation ({inner} was {_short(old.get(inner))}, now it is "
                f"{_short(new.get(inner))}); give another folder"
            )

    def _rewrite(self) -> None:
        """results.csv with whole lines alone: a killed run may have left half of one."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *map(_cells, self.rows)])
        replace_text(self.out / "results.csv", text.getvalue())


def shrink(shape: tuple[int, ...]) -> int:
    """By how much a film [t, H, W, 3] is made smaller to be kept as one picture."""
    t, width = shape[0], shape[2]
    return -(-t * width // WIDEST)


def _cells(row: Row) -> list[object]:
    scores = [getattr(row.scores, name) for name in METRICS]
    return [row.set, row.clip, row.motion, row.third, row.method, *scores, row.seconds, row.calls]


def _read(path: Path) -> Iterator[Row]:
    if not path.exists():
        return
    text = path.read_bytes().decode()
    whole = text[: text.rfind("\n") + 1]  # a line that was cut short has no end
    for cells in csv.DictReader(io.StringIO(whole, newline="")):
        numbers: dict[str, Any] = {k: float(cells[k]) if cells[k] else None for k in METRICS}
        yield Row(
            cells["set"],
            cells["clip"],
            float(cells["motion"]),
            cells["third"],
            cells["method"],
            Scores(**numbers),
            float(cells["seconds"]),
            int(cells["calls"]),
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
