"""What a base makes of noised clips, for a decoder to learn from: where it errs, the decoder has seen it err.

Legend: b clips, t frames, H W pixels, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..adapter import Adapter
from ..clipspan import ClipSpan
from ..edm import scalings
from ..keyframes import Keyframes, concat_latent
from ..svd.adapted import load_modules, predict
from ..svd.load import SVD
from ..svd.pictures import embed, encode
from .clips import ClipSource
from .ordered import in_order
from .tiny_vae import VAEConfig


@dataclass(frozen=True)
class FilmEstimates:
    """A clip's latents, noised, and the estimate of them by ``svd`` with ``adapter``, both keyframes known.

    share   of the clips that are estimated; the others' latents are the encoder's
    levels  (lowest, highest) noise level, drawn evenly in its logarithm
    """

    svd: SVD
    adapter: Adapter | None
    clips: ClipSource
    share: float
    levels: tuple[float, float]

    def __repr__(self) -> str:
        names = (self.svd.name, self.adapter and self.adapter.name, self.share, self.levels)
        return f"estimates {names}"

    def ahead(self, steps: Sequence[int], config: VAEConfig) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Each step's pictures [b t, 3, H, W] in -1..1, the latents to decode [b t, 4, h, w], and t; made by
        the clips' workers.
        """
        made = in_order(_Made(self, config), steps, self.clips.config.workers)
        for pictures, latents, t in made:
            yield torch.from_numpy(pictures).float() / 127.5 - 1, torch.from_numpy(latents), t

    @torch.no_grad()
    def estimate(self, clips: Tensor, g: torch.Generator) -> Tensor:
        """Latents [b, t, 4, h, w], unscaled, of clips [b, t, 3, H, W] in -1..1."""
        svd, (b, t) = self.svd, clips.shape[:2]
        latents = encode(svd, clips.flatten(0, 1), at_once=b * t).unflatten(0, (b, t))
        x0 = latents * svd.vae.config["scaling_factor"]
        low, high = (math.log(level) for level in self.levels)
        sigma = (low + (high - low) * torch.rand(b, generator=g)).exp()
        c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1, 1, 1) for c in scalings(sigma))
        x = x0 + sigma.view(-1, 1, 1, 1, 1) * torch.randn(x0.shape, generator=g)
        modules = load_modules(svd.unet, self.adapter) if self.adapter else None
        shown = self.adapter.options.concat_latent if self.adapter else "nearest"
        keyframes = latents[:, [0, -1]]
        hint = Keyframes(keyframes, (0, t - 1), t).hint
        concat = concat_latent(keyframes, (0, t - 1), t, shown)
        context = embed(svd.image_encoder, clips[:, 0]).unsqueeze(1)
        ids = [svd.config["fps"] - 1, svd.config["motion_bucket_id"], svd.config["augmentation"]]
        ids = torch.tensor([ids]).float().expand(b, -1)
        span = ClipSpan(t, 0, t - 1, *latents.shape[-2:])
        out = predict(svd.unet, modules, c_in * x, concat, hint, c_noise.flatten(), context, ids, span)
        estimate = (c_skip * x + c_out * out) / svd.vae.config["scaling_factor"]
        estimate[:, [0, -1]] = keyframes  # as the sampler does
        kept = torch.rand(b, generator=g) >= self.share
        return torch.where(kept.view(-1, 1, 1, 1, 1), latents, estimate)


@dataclass(frozen=True)
class _Made:
    estimates: FilmEstimates
    config: VAEConfig

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        config = self.config
        g = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        whole = config.whole(step)
        clips = self.estimates.clips.draw(
            config.seed, step, config.clips if whole else config.crop_clips, config.frames
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            latents = self.estimates.estimate(clips, g).float()
        t = config.frames
        if not whole:
            t, side = config.crop_frames, config.crop // 8
            first, top, left = (
                int(torch.randint(0, room + 1, (), generator=g))
                for room in (config.frames - t, latents.shape[-2] - side, latents.shape[-1] - side)
            )
            latents = latents[:, first : first + t, :, top : top + side, left : left + side]
            top, left, side = 8 * top, 8 * left, 8 * side
            clips = clips[:, first : first + t, :, top : top + side, left : left + side]
        pictures = ((clips + 1) * 127.5).round().byte()
        return pictures.flatten(0, 1).numpy(), latents.flatten(0, 1).contiguous().numpy(), t
