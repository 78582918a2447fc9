"""FID and FVD: how far apart two sets are as clouds of features.

Heusel et al., 2017, and Unterthiner et al., 2018. The networks are the TorchScript files the field shares:
Inception for frames and I3D for films, both called as f(x, return_features=True). The distance is
torchmetrics'.
Legend: n clips, t frames, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SHORTEST = 9  # frames of a film that I3D takes
Features = Callable[[Tensor], Tensor]
"""FID: f(frames [t, 3, H, W]) -> [t, d]; FVD: f(film [1, 3, t, H, W]) -> [1, d]; pictures are 0..255."""


def load_inception(path: Path, device: torch.device) -> Features:
    """The features of frames by a TorchScript Inception that takes 0..255. Raises ValueError for others."""
    net = _load(path, device, "--fid-weights")
    return lambda frames: net(frames.to(device), return_features=True)


def load_i3d(path: Path, device: torch.device) -> Features:
    """The features of films by a TorchScript I3D that rescales and resizes by itself. Raises ValueError."""
    net = _load(path, device, "--fvd-weights")
    return lambda film: net(film.float().to(device), rescale=True, resize=True, return_features=True)


def distance(
    truth: Iterator[np.ndarray], films: Iterator[np.ndarray], features: Features, whole: bool
) -> float:
    """The Fréchet distance of two sets of films, each [t, H, W, 3] uint8.

    whole  a film is one thing, its given frames included (FVD); else its generated frames are many (FID)
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    def prepared(film: np.ndarray) -> Tensor:
        frames = torch.from_numpy(film if whole else film[1:-1]).permute(0, 3, 1, 2)
        return frames.transpose(0, 1)[None] if whole else frames

    metric: FrechetInceptionDistance | None = None
    for real, some in ((True, truth), (False, films)):
        for film in some:
            found = features(prepared(film)).float().cpu()
            if metric is None:
                metric = FrechetInceptionDistance(feature=_Given(found.shape[1]))
            metric.update(found, real=real)
    assert metric is not None  # a set has clips
    return float(metric.compute())


class _Given(nn.Module):
    """Features that are there already, as torchmetrics wants its network."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def _load(path: Path, device: torch.device, option: str) -> Any:
    if not path.is_file():
        raise ValueError(f"{option} {path} is not there; give the network as a TorchScript file")
    try:
        with warnings.catch_warnings():
            # Deprecated since torch 2.13, but it is what the field's two files are.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{option} {path} is no TorchScript file; give the network as one") from error
