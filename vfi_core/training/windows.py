"""Which windows of the films may be drawn, and one of them by chance.

Legend: n frames of all films, t frames of a window, H W pixels. Frames are uint8, [t, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..media import read_video
from .clips_config import ClipsConfig
from .films import read_windows
from .footage import CUT, END, HELD, Footage


@dataclass
class ListedWindows:
    """The windows of windows.json, of the videos named. The videos are small: each is read once and kept."""

    root: Path
    config: ClipsConfig
    videos: Collection[str]
    _read: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.windows = [w for w in read_windows(self.root) if w["video"] in set(self.videos)]
        if not self.windows:
            raise ValueError(f"{self.root} has no training window in its videos; list some in windows.json")
        self._check(self.config.most_frames)
        # Favour motion, and keep one long video from filling half of the draws.
        share = {w["video"]: 0 for w in self.windows}
        for w in self.windows:
            share[w["video"]] += 1
        self._weights = torch.tensor(
            [
                (1 + w["motion_mad"]) ** self.config.favour_motion / share[w["video"]] ** 0.5
                for w in self.windows
            ]
        )

    def draw(self, g: torch.Generator, length: int) -> Tensor:
        """The first ``length`` frames of a window."""
        self._check(length)
        window = self.windows[int(torch.multinomial(self._weights, 1, generator=g))]
        start, stride = window["start"], window["stride"]
        return self._video(window["video"])[start : start + stride * length : stride]

    def _check(self, length: int) -> None:
        if (shortest := min(w["frames"] for w in self.windows)) < length:
            raise ValueError(
                f"{self.root}/windows.json lists a window of {shortest} frames, too short for clips of "
                f"{length}; use fewer frames"
            )

    def _video(self, name: str) -> Tensor:
        if name not in self._read:
            self._read[name] = read_video(self.root / "videos" / name)
        return self._read[name]


@dataclass(frozen=True)
class _Table:
    """The windows of one length and stride: the first frame of each, and the sum of weights up to it."""

    starts: np.ndarray
    sums: np.ndarray


class IndexedWindows:
    """Every window of the footage in whose range of strides time passes evenly within one scene.

    Raises ValueError where the longest clips find none.
    """

    def __init__(self, footage: Footage, config: ClipsConfig, where: Path) -> None:
        self.footage, self.config, self.where = footage, config, where
        self._tables: dict[int, dict[int, _Table]] = {}
        self._of(config.most_frames)

    def count(self, length: int) -> tuple[int, int]:
        """(how many there are of this length, of all strides; in how many films)"""
        starts = np.concatenate([table.starts for table in self._of(length).values()])
        return len(starts), len(np.unique(self._films(starts)))

    def _films(self, starts: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.footage.begins, starts, "right") - 1

    def draw(self, g: torch.Generator, length: int) -> Tensor:
        """A window of ``length`` frames: first its stride, then the window."""
        tables = self._of(length)
        strides = list(tables)
        stride = strides[int(torch.randint(len(strides), (), generator=g))]
        starts, sums = tables[stride].starts, tables[stride].sums
        chosen = torch.rand((), generator=g, dtype=torch.float64).item() * sums[-1]
        first = starts[min(int(np.searchsorted(sums, chosen, "right")), len(starts) - 1)]
        film = int(self._films(first))
        times = self.footage.times[first : first + stride * (length - 1) + 1 : stride]
        return self.footage.films[film].at(times.tolist())

    def _of(self, length: int) -> dict[int, _Table]:
        if length not in self._tables:
            low, high = (self.config.stride[0], self.config.stride[-1]) if length > 1 else (1, 1)
            found = {stride: self._table(length, stride) for stride in range(low, high + 1)}
            self._tables[length] = {s: table for s, table in found.items() if len(table.starts)}
        if not self._tables[length]:
            raise ValueError(
                f"{self.where} has no {length} frames in a row within one scene at stride "
                f"{list(self.config.stride)}; use fewer frames, a smaller stride or other films"
            )
        return self._tables[length]

    def _table(self, length: int, stride: int) -> _Table:
        footage, favour = self.footage, self.config.favour_motion
        barred = END | (CUT if self.config.skip_cuts else 0)
        held = (footage.gaps & HELD > 0) if self.config.skip_held else np.zeros(len(footage.gaps), bool)
        starts = even_windows(footage.gaps & barred > 0, held, length, stride)
        if not len(starts):
            return _Table(starts, np.zeros(0))
        motion = _difference(footage.small, starts, starts + stride * (length - 1))
        film = self._films(starts)
        share = np.bincount(film, minlength=len(footage.films))[film]
        return _Table(starts, np.cumsum((1 + motion) ** favour / share**0.5))


def even_windows(barred: np.ndarray, held: np.ndarray, length: int, stride: int) -> np.ndarray:
    """First frames of the windows that cross no barred gap and in which time passes evenly.

    barred, held  [n] bool, of the gap behind each frame
    Every step of a window has the same number of held gaps in it, fewer than its stride: of a film drawn
    on twos stride 2 has windows and stride 1 none, of a telecined one neither.
    """
    span = stride * (length - 1)
    firsts = np.arange(max(0, len(barred) - span))
    ends, stays = (np.concatenate([[0], np.cumsum(gaps)]) for gaps in (barred, held))
    firsts = firsts[ends[firsts + span] == ends[firsts]]
    steps = [stays[firsts + i + stride] - stays[firsts + i] for i in range(0, span, stride)]
    if not steps:
        return firsts
    even = steps[0] < stride
    for step in steps[1:]:
        even &= step == steps[0]
    return firsts[even]


def _difference(small: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Mean absolute difference of two frames, 0..255; in pieces, since there may be millions of windows."""
    pieces = [slice(i, i + 65536) for i in range(0, len(first), 65536)]
    differ = [np.abs(small[first[p]].astype(np.int16) - small[last[p]]).mean(1) for p in pieces]
    return np.concatenate(differ)
