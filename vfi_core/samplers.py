"""Sampling on the k-diffusion contract, with the known frames held.

Legend: t frames, c channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .keyframes import blend_known

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x [t, c, h, w], sigma []) -> x0 estimate [t, c, h, w]


def clip_noise(frames: int, height: int, width: int, seed: int) -> Tensor:
    """The noise of one segment, [t, 4, h, w] float32 on the CPU, the same numbers in every host."""
    return torch.randn([frames, 4, height, width], generator=torch.Generator().manual_seed(seed))


def hold_known(
    denoiser: Denoiser, known: Tensor, mask: Tensor, noise: Tensor, clean: bool = False
) -> Denoiser:
    """A denoiser whose known frames are given, as ComfyUI's KSamplerX0Inpaint does (RePaint, eqs. 8a to 8c).

    known  [t, c, h, w]  scaled latents (VAE x 0.18215)
    mask   [t, 1, h, w]  1 where a frame is known
    noise  [t, c, h, w]  unit variance; re-noises the known frames to each sigma
    clean  leave the re-noising to the denoiser (option `known_frames = clean`)
    """

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        shown = known if clean else known + sigma * noise
        return blend_known(denoiser(blend_known(x, shown, mask), sigma), known, mask)

    return held


def sample_euler(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, callback: Callable[[int], None] | None = None
) -> Tensor:
    """Algorithm 2 of Karras et al. (2022) in its Euler form; ``callback`` gets each finished step's index."""
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        slope = (x - denoiser(x, sigma)) / sigma
        x = x + (following - sigma) * slope
        if callback is not None:
            callback(i)
    return x


def linear_guidance(frames: int, low: float, high: float) -> Tensor:
    """SVD's own ramp over a clip, [t]: ``low`` on the first frame, ``high`` on the last."""
    return torch.linspace(low, high, frames)


def triangle_guidance(frames: int, ends: float, middle: float) -> Tensor:
    """Guidance for two fixed ends, [t]: ``ends`` on the keyframes, ``middle`` half-way (the host's
    triangle).
    """
    ramp = 1 - (2 * torch.linspace(0, 1, frames) - 1).abs()
    return ends + (middle - ends) * ramp
