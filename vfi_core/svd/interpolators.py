"""SVD as plain functions of pictures, for whoever compares methods: floats in, floats out, no model in sight.

Legend: n generated frames, t frames, H W pixels; pictures are RGB, float 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..sizes import fit, restore, working_size
from ..weights import Weights
from .adapted import load_modules
from .interpolate import interpolate
from .load import SVD
from .pictures import decode, encode
from .settings import Settings


def svd_interpolator(
    svd: SVD, settings: Settings, adapter: Weights | None
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """f(first [H, W, 3], last [H, W, 3], in_betweens) -> the film [in_betweens + 2, H, W, 3].

    Without an adapter this is the base model, led to the last frame as ``settings.method`` says.
    Raises ValueError for an adapter of another base.
    """
    modules = load_modules(svd.unet, adapter) if adapter else None

    def between(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
        wanted = replace(settings, in_betweens=in_betweens)
        return interpolate(svd, [first, last], wanted, adapter, modules=modules).to(first)

    return between


@torch.no_grad()
def vae_round_trip(svd: SVD, film: Tensor) -> Tensor:
    """The film [t, H, W, 3] after SVD's VAE, encoded and decoded as `interpolate` does it."""
    height, width = film.shape[1:3]
    size = working_size(height, width, tuple(svd.config["size"]))
    pictures = fit(film.float().permute(0, 3, 1, 2) * 2 - 1, size)
    decoded = restore(decode(svd, encode(svd, pictures)).cpu(), height, width)
    return (decoded.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).to(film)


def linear_through_vae(svd: SVD) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The cross-fade of the two keyframes' VAE round trips: what a linear method keeps behind this VAE."""

    def between(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
        # The decoder is temporal: each keyframe is the middle of a still film of three.
        a, b = (vae_round_trip(svd, torch.stack([x, x, x]))[1] for x in (first, last))
        weights = (i / (in_betweens + 1) for i in range(1, in_betweens + 1))
        return torch.stack([(1 - t) * a + t * b for t in weights])

    return between
