"""A toy's pool and settings, for every test that trains, also in processes of their own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.svd.toys import toy_svd
from vfi_core.adapter import PRESETS, Adapter
from vfi_core.svd.load import SVD
from vfi_core.training.denoiser import train_adapter
from vfi_core.training.journal import Row
from vfi_core.training.pool import LatentPool
from vfi_core.training.rows import read_rows
from vfi_core.training.settings import TrainConfig

TRAINING = {"frames": 5, "fps": 7, "motion_bucket_id": 127, "augmentation": 0.0, "size": [64, 64]}


@dataclass(frozen=True)
class Shades:
    """Clips that brighten, from a seed."""

    workers: int = 0
    fingerprint: str = "shades"

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(workers=self.workers)

    def draw(self, seed: int, step: int, batch: int, frames: int) -> Tensor:
        g = torch.Generator().manual_seed(1000 * seed + step)
        coarse = torch.rand(batch, 1, 3, 8, 8, generator=g) * 2 - 1
        pictures = torch.nn.functional.interpolate(coarse.flatten(0, 1), (64, 64), mode="bilinear")
        way = torch.linspace(0.3, 1, frames).view(1, -1, 1, 1, 1)
        return pictures.unflatten(0, (batch, 1)) * way


def pool() -> LatentPool:
    g = torch.Generator().manual_seed(0)
    ends = (torch.rand(6, 2, 3, 64, 64, generator=g) * 255).byte()
    latents = torch.randn(6, 5, 4, 8, 8, generator=g).half() * 5
    return LatentPool([{"counts": torch.full((6,), 5), "latents": latents.flatten(0, 1), "ends": ends}])


def quiet(_line: str) -> None:
    pass


def own_toy(dtype: torch.dtype = torch.float32) -> SVD:
    """A toy of a test's own, to change."""
    svd = copy.deepcopy(toy_svd())
    for model in (svd.unet, svd.vae, svd.image_encoder):
        torch.nn.Module.to(model, dtype)
    return svd


def train(out: Path, config: TrainConfig, preset: str = "fast", **kwargs: Any) -> Adapter:
    """An adapter of the toy, trained under ``out``."""
    out.mkdir(exist_ok=True)
    svd = kwargs.pop("svd", None) or own_toy()
    clips = kwargs.pop("clips", None) or pool()
    return train_adapter(svd, PRESETS[preset], clips, config, TRAINING, out, quiet, **kwargs)


def losses(out: Path) -> list[float]:
    """The loss of every step of the run under ``out``."""
    return [Row.of(texts).loss for texts in read_rows(out / "losses.csv", 10**6)]
