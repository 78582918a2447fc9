"""Where one scene ends and another begins, and which gaps are left unfilled for it.

Gap i lies between frames i and i + 1. Legend: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.35  # misses 0.3 % of splices, cuts 0 of 7,928 neighbours and 4 of 7,619 four frames apart
SIDE, CELLS, LEVELS = 32, 8, 8  # of a signature, of its layout, of each colour
WEIGHT = 1.5  # of the layout: with 1, 3 times as many splices are missed; with 2, 25 times the flashes cut
FLAT = 1e-5  # added to variances: less than one of 255 steps is no layout


def signature(frame: Tensor) -> Tensor:
    """A frame [H, W, 3], float in 0..1 or uint8, as a small one [3, 32, 32] on the CPU.

    Raises ValueError for another shape.
    """
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame of shape {list(frame.shape)} is no picture; give [height, width, 3]")
    small = F.adaptive_avg_pool2d(frame.movedim(2, 0).contiguous()[None].float(), SIDE)[0].cpu()
    return small if frame.is_floating_point() else small / 255


def distance(a: Tensor, b: Tensor) -> float:
    """How surely two signatures are of two scenes, 0 (one) to 1 (two): the lesser of two distances.

    colours  1 - sum min(p, q), p and q the shares of 8x8x8 colours: things may move anywhere
    layout   1.5 (1 - correlation) of 8x8 cells: light may change everywhere
    """
    p, q = (torch.bincount(_colours(x), minlength=LEVELS**3) / SIDE**2 for x in (a, b))
    return min(1 - torch.minimum(p, q).sum().item(), WEIGHT * (1 - _correlation(a, b)))


def gap_distances(frames: Iterable[Tensor]) -> Iterator[float]:
    """The distance across each gap, in order: the least of (i, i + 1), (i - 1, i + 1) and (i, i + 2).

    Two scenes are far apart in all three. A flash of one frame is not: its two neighbours are alike.
    Holds three signatures at a time, however long the film.
    """
    before: list[Tensor] = []
    waiting = None
    for frame in frames:
        small = signature(frame)
        across = distance(before[0], small) if len(before) == 2 else 1.0
        if waiting is not None:
            yield min(waiting, across)
        if before:
            waiting = min(distance(before[-1], small), across)
        before = [*before[-1:], small]
    if waiting is not None:
        yield waiting


def find_cuts(frames: Iterable[Tensor], threshold: float = THRESHOLD) -> list[int]:
    """Gaps behind which a new scene begins: those whose distance is above ``threshold``, 0 to 1 (none).

    frames  [H, W, 3] each, float in 0..1 or uint8; read once, one at a time
    A dissolve or a fade is no cut. Raises ValueError for a threshold or a frame that cannot be.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold of {threshold:g} for cuts is outside 0..1; use {THRESHOLD:g}")
    return [i for i, far in enumerate(gap_distances(frames)) if far > threshold]


@dataclass(frozen=True)
class InterpolationStates:
    """Which gaps are left unfilled, as ComfyUI's frame interpolation nodes ask for it.

    frame_indices  gaps
    is_skip_list   True: these are left; False: all the others are
    """

    frame_indices: list[int]
    is_skip_list: bool = True

    def is_frame_skipped(self, frame_index: int) -> bool:
        return (frame_index in self.frame_indices) == self.is_skip_list


def skipped_gaps(states: object, gaps: int) -> frozenset[int]:
    """Those of the gaps 0..gaps - 1 that anything with ``is_frame_skipped(gap)`` leaves unfilled; None
    leaves none.

    Raises ValueError for anything else.
    """
    if states is None:
        return frozenset()
    asked = getattr(states, "is_frame_skipped", None)
    if not callable(asked):
        raise ValueError(
            f"a {type(states).__name__} does not say which gaps to skip; connect INTERPOLATION_STATES"
        )
    return frozenset(i for i in range(gaps) if asked(i))


def parse_gaps(text: str, gaps: int) -> list[int]:
    """Gaps out of `3, 17`; none out of an empty text. Raises ValueError naming what is wrong."""
    parts = text.replace(",", " ").split()
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"gaps '{text}' are no frame numbers; write them as 3, 17")
    for gap in map(int, parts):
        if gap >= gaps:
            raise ValueError(
                f"there is no gap behind frame {gap} of {gaps + 1}; "
                + (f"use 0 to {gaps - 1}" if gaps else "give two frames or more")
            )
    return [int(part) for part in parts]


def _colours(small: Tensor) -> Tensor:
    """The number of each pixel's colour, [s]."""
    red, green, blue = (small * LEVELS).long().clamp(0, LEVELS - 1).flatten(1)
    return (red * LEVELS + green) * LEVELS + blue


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = (F.adaptive_avg_pool2d(x, CELLS) for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    return ((a * b).mean() / ((a.var(correction=0) + FLAT) * (b.var(correction=0) + FLAT)).sqrt()).item()
