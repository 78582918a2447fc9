"""What a base makes of noised clips, for a decoder to learn from: where it errs, the decoder has seen it err.

Legend: b clips, t frames, H W pixels, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..adapter import Adapter
from ..clipspan import ClipSpan
from ..edm import scalings
from ..keyframes import Keyframes, concat_latent
from ..svd.adapted import Modules, load_modules, predict
from ..svd.load import SVD
from ..svd.pictures import embed, encode
from .clips import ClipSource
from .ordered import in_order
from .run_state import digest
from .tiny_vae import VAEConfig


def estimate_clip(
    svd: SVD,
    modules: Modules | None,
    shown: str,
    latents: Tensor,
    context: Tensor,
    sigma: Tensor,
    noise: Tensor,
) -> Tensor:
    """A single call's estimate of noised latents, both keyframes known; unscaled [b, t, 4, h, w], both.

    shown    how the concat latent shows the keyframes, see `keyframes.concat_latent`
    context  [b, 1, c] of the first picture
    sigma    [b], of ``noise`` [b, t, 4, h, w] of unit variance on the scaled latents
    """
    b, t = latents.shape[:2]
    scale = svd.vae.config["scaling_factor"]
    c_skip, c_out, c_in, c_noise = scalings(sigma.view(-1, 1, 1, 1, 1))
    x = latents * scale + sigma.view(-1, 1, 1, 1, 1) * noise
    keyframes = latents[:, [0, -1]]
    hint = Keyframes(keyframes, (0, t - 1), t).hint
    concat = concat_latent(keyframes, (0, t - 1), t, shown)
    ids = [svd.config["fps"] - 1, svd.config["motion_bucket_id"], svd.config["augmentation"]]
    ids = latents.new_tensor([ids]).expand(b, -1)
    span = ClipSpan(t, 0, t - 1, *latents.shape[-2:])
    out = predict(svd.unet, modules, c_in * x, concat, hint, c_noise.flatten(), context, ids, span)
    return (c_skip * x + c_out * out) / scale


@torch.no_grad()
def check_encoder(svd: SVD, vae: Mapping[str, Tensor], name: str) -> None:
    """Raises ValueError for a VAE of other widths than the base's, or whose encoder makes other latents: its
    decoder would learn from, or be given, latents that are not its own.
    """
    own = svd.vae.state_dict()
    differ = [k for k in sorted({*own, *vae}) if k not in own or k not in vae or own[k].shape != vae[k].shape]
    if differ:
        raise ValueError(f"{name} does not have the widths of the VAE of {svd.name} ({differ[0]})")
    other = replace(svd, vae=copy.deepcopy(svd.vae))
    other.vae.load_state_dict(vae)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents, others = encode(svd, picture), encode(other, picture)
    apart = ((others - latents).abs().max() / latents.abs().max()).item()
    if apart > 1e-2:  # float16 and a quant_conv folded into its neighbour are 1e-3
        raise ValueError(
            f"{name} has another encoder than {svd.name}: its latents are {apart:.2g} of the largest off; "
            "give a VAE whose decoder alone was trained on (freeze_encoder)"
        )


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

    @cached_property
    def modules(self) -> Modules | None:
        return load_modules(self.svd.unet, self.adapter) if self.adapter else None

    @property
    def shown(self) -> str:
        return self.adapter.options.concat_latent if self.adapter else "nearest"

    def __repr__(self) -> str:
        """What tells a run on these from a run on others."""
        svd = self.svd
        weights = [svd.unet, svd.vae, svd.image_encoder] + ([self.modules] if self.modules else [])
        told = [svd.config[name] for name in ("fps", "motion_bucket_id", "augmentation")]
        return f"estimates {digest(*weights)} {self.shown} {told} {self.share} {self.levels}"

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
        kept = torch.rand(b, generator=g) >= self.share
        low, high = (math.log(level) for level in self.levels)
        sigma = (low + (high - low) * torch.rand(b, generator=g)).exp()
        noise = torch.randn(latents.shape, generator=g)
        if kept.all():
            return latents
        context = embed(svd.image_encoder, clips[:, 0]).unsqueeze(1)
        estimate = estimate_clip(svd, self.modules, self.shown, latents, context, sigma, noise)
        estimate[:, [0, -1]] = latents[:, [0, -1]]  # as the sampler does
        return torch.where(kept.view(-1, 1, 1, 1, 1), latents, estimate)


@dataclass(frozen=True)
class _Made:
    estimates: FilmEstimates
    config: VAEConfig

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        config = self.config
        # Not the clips' own generator over again, or a clip's noise level would follow from what it shows.
        g = torch.Generator().manual_seed((config.seed + 32_452_843) * 1_000_003 + step)
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
