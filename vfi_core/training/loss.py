"""The denoising loss of one batch: the base's own, or an adapter's on the frozen base.

Legend: b clips, t frames, k keyframes, h w latent, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapter import Options
from ..clipspan import ClipSpan
from ..edm import loss_weight, scalings, v_target
from ..keyframes import Keyframes, blend_known, concat_latent
from ..svd.adapted import AdapterModules, predict
from ..svd.load import SVD
from ..svd.pictures import embed, encode


@dataclass(frozen=True)
class NoiseLaw:
    """ln sigma ~ N(mean, std^2), cut to the base's range; the share of samples that lose each condition, and
    of those whose concat latent is read as `nearest`, whatever the options say.
    """

    mean: float = 0.7
    std: float = 1.6
    drop_embedding: float = 0.1
    drop_concat: float = 0.1
    drop_both: float = 0.1
    nearest: float = 0.0


def denoising_loss(
    svd: SVD,
    modules: AdapterModules | None,
    options: Options,
    latents: Tensor,
    ends: Tensor,
    law: NoiseLaw,
    training: Mapping[str, Any],
    g: torch.Generator,
) -> Tensor:
    """The weighted |F - v|^2 of eq. 1 (see `edm.loss_weight`), a mean over clips, frames and latent pixels.

    latents   [b, t, 4, h, w]  VAE `mode()`, unscaled
    ends      [b, 2, 3, H, W]  the first and last picture of each clip, -1..1
    training  fps, motion_bucket_id, augmentation
    """
    unet, device = svd.unet, latents.device
    b, t, _, h, w = latents.shape
    x0 = latents * svd.vae.config["scaling_factor"]
    sigma = (law.mean + law.std * torch.randn(b, generator=g)).exp()
    sigma = sigma.clamp(svd.config["sigma_min"], svd.config["sigma_max"]).to(device)
    noise = torch.randn(x0.shape, generator=g).to(device)
    _, _, c_in, c_noise = scalings(sigma)
    s, c_in = sigma.view(-1, 1, 1, 1, 1), c_in.view(-1, 1, 1, 1, 1)
    shown = (x0 + s * noise) * c_in

    clips = [Keyframes(clip[[0, -1]], (0, t - 1), t) for clip in latents]
    hint = torch.stack([clip.hint for clip in clips])
    mask = hint[:, :, 4:]
    if options.known_frames == "clean":
        shown = blend_known(shown, x0, mask)

    shown_ends = latents[:, [0, -1]]
    if augmentation := training["augmentation"]:  # in pixel space, before the VAE
        noisy = ends + augmentation * torch.randn(ends.shape, generator=g).to(device)
        shown_ends = encode(svd, noisy.flatten(0, 1)).view(b, 2, 4, h, w)
    embedded = embed(svd.image_encoder, ends.flatten(0, 1)).view(b, 2, -1)
    context = embedded.mean(1, keepdim=True) if options.clip_tokens == "mean" else embedded[:, :1]

    draw = torch.rand(b, generator=g).to(device)
    both = draw < law.drop_both
    no_embedding = both | ((draw >= law.drop_both) & (draw < law.drop_both + law.drop_embedding))
    no_concat = both | (draw >= 1 - law.drop_concat)
    nearest = torch.rand(b, generator=g) < law.nearest
    readings = ["nearest" if n else options.concat_latent for n in nearest]
    pairs = zip(shown_ends, readings, strict=True)
    concat = torch.stack([concat_latent(e, (0, t - 1), t, reading) for e, reading in pairs])
    context = context * (~no_embedding).view(-1, 1, 1)
    concat = concat * (~no_concat).view(-1, 1, 1, 1, 1)

    ids = torch.tensor([[training["fps"] - 1, training["motion_bucket_id"], augmentation]], device=device)
    span = ClipSpan(t, 0, t - 1, h, w)
    out = predict(unet, modules, shown, concat, hint, c_noise, context, ids.float().expand(b, -1), span)
    error = (out - v_target(x0, noise, s)) ** 2
    weight = loss_weight(s, options.loss)
    if options.loss_frames == "generated":
        weight = weight * (1 - mask) * t / (t - 2)
    return (weight * error).mean()
