"""The denoising loss of one batch: the base's own, or an adapter's on the frozen base.

Legend: b clips, t frames, k keyframes, h w latent, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from .batch import Batch
from .noise import Draws


def denoising_loss(
    svd: SVD,
    modules: AdapterModules | None,
    options: Options,
    batch: Batch,
    draws: Draws,
    training: Mapping[str, Any],
    hooks: ExitStack | None = None,
    predict: Callable[..., Tensor] = predict,
) -> Tensor:
    """The weighted |F - v|^2 of eq. 1 (see `edm.loss_weight`), a mean over clips, frames and latent pixels.

    batch     [b, ...] some of a step's clips, and ``draws`` what chance decided of them
    training  fps, motion_bucket_id, augmentation
    hooks     see `predict`
    predict   that function, or a faster one that does the same
    """
    device = batch.latents.device
    b, t, _, h, w = batch.latents.shape
    x0 = batch.latents * svd.vae.config["scaling_factor"]
    sigma, noise = draws.sigma.to(device), draws.noise.to(device)
    _, _, c_in, c_noise = scalings(sigma)
    s, c_in = sigma.view(-1, 1, 1, 1, 1), c_in.view(-1, 1, 1, 1, 1)
    shown = (x0 + s * noise) * c_in

    hint = Keyframes(batch.latents[:, [0, -1]], (0, t - 1), t).hint
    mask = hint[:, :, 4:]
    if options.known_frames == "clean":
        shown = blend_known(shown, x0, mask)

    context, concat = _conditions(svd, options, batch, draws, training["augmentation"])
    ids = [training["fps"] - 1, training["motion_bucket_id"], training["augmentation"]]
    ids = torch.tensor([ids], device=device).float().expand(b, -1)
    span = ClipSpan(t, 0, t - 1, h, w)
    out = predict(svd.unet, modules, shown, concat, hint, c_noise, context, ids, span, hooks=hooks)
    error = (out - v_target(x0, noise, s)) ** 2
    weight = loss_weight(s, options.loss)
    if options.loss_frames == "generated":
        weight = weight * (1 - mask) * t / (t - 2)
    return (weight * error).mean()


def _conditions(
    svd: SVD, options: Options, batch: Batch, draws: Draws, augmentation: float
) -> tuple[Tensor, Tensor]:
    """(context [b, 1, d], concat latent [b, t, 4, h, w]), zeros where a clip loses them."""
    device = batch.latents.device
    b, t, _, h, w = batch.latents.shape
    shown_ends = batch.shown
    pictures = batch.pictures
    if draws.pixels is not None and pictures is not None:  # in pixel space, before the VAE
        noisy = pictures + augmentation * draws.pixels.to(device)
        shown_ends = encode(svd, noisy.flatten(0, 1)).view(b, 2, 4, h, w)
    embedded = batch.embeddings
    if embedded is None:
        embedded = embed(svd.image_encoder, pictures.flatten(0, 1)).view(b, 2, -1)
    context = embedded.mean(1, keepdim=True) if options.clip_tokens == "mean" else embedded[:, :1]
    own, nearest = (concat_latent(shown_ends, (0, t - 1), t, r) for r in (options.concat_latent, "nearest"))
    concat = torch.where(draws.nearest.to(device).view(-1, 1, 1, 1, 1), nearest, own)
    context = context * (~draws.no_embedding.to(device)).view(-1, 1, 1)
    return context, concat * (~draws.no_concat.to(device)).view(-1, 1, 1, 1, 1)
