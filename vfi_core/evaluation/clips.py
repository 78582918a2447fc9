"""Clips to measure on, read one at a time, and the one function that brings every frame to one size.

Legend: t frames, H W pixels; pictures are RGB, float 0..1 unless they are said to be uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from .metrics import dis_flow, flow_magnitude

Size = tuple[int, int]
"""H, W."""
Read = Callable[[str], np.ndarray]
"""The name of a clip -> its frames [t, H, W, 3] uint8, as they are on the disk."""
THIRDS = ("small", "medium", "large")


@dataclass(frozen=True)
class Clip:
    """A film whose first and last frame are given and whose others are the truth: frames [t, H, W, 3]."""

    name: str
    frames: Tensor

    @cached_property
    def motion(self) -> float:
        """Mean length of the DIS flow from the first frame to the last, in pixels."""
        return flow_magnitude(dis_flow(self.frames[0], self.frames[-1]))


@dataclass(frozen=True)
class ClipSet:
    """Clips of one set: each is read when it is asked for, and none is kept.

    layout  what the set is, in words
    names   of the clips; each can be the name of a folder
    read    the truth
    films   label -> films of other methods that lie beside the truth, see `.methods.published`
    size    every frame is brought to, see `fit`; None: as it is
    notes   what a reader of the figures should know
    """

    name: str
    layout: str
    names: tuple[str, ...]
    read: Read
    films: Mapping[str, Read] = field(default_factory=dict)
    size: Size | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Clip:
        name = self.names[index]
        return Clip(name, as_floats(fit(self.read(name), self.size)))

    def __iter__(self) -> Iterator[Clip]:
        return (self[i] for i in range(len(self)))


def fit(frames: np.ndarray, size: Size | None) -> np.ndarray:
    """Frames [t, H, W, 3] uint8 cut to the aspect of ``size`` around their centre, then area-averaged to it.

    None leaves them as they are.
    """
    if size is None or frames.shape[1:3] == size:
        return frames
    height, width = frames.shape[1:3]
    scale = min(height / size[0], width / size[1])
    h, w = min(height, round(size[0] * scale)), min(width, round(size[1] * scale))
    top, left = (height - h) // 2, (width - w) // 2
    cut = frames[:, top : top + h, left : left + w]
    return np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in cut])


def as_floats(frames: np.ndarray) -> Tensor:
    """Frames of 0..255 as a tensor of 0..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).float() / 255


def thirds(motions: list[float]) -> list[str]:
    """For each clip the third of the list it is in by its motion: small, medium or large."""
    order = np.argsort(np.argsort(motions, kind="stable"), kind="stable")
    return [THIRDS[3 * int(rank) // len(motions)] for rank in order]
