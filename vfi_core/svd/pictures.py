"""Pictures into SVD's latents and image embeddings, and latents back into pictures.

Legend: k keyframes, t frames, H W pixels, h w latent (H / 8, W / 8), d channels of the image embedding.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ..decoding import decode_windows
from .load import SVD

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def encode(svd: SVD, pictures: Tensor, at_once: int = 1) -> Tensor:
    """VAE `mode()`, unscaled (not x 0.18215), [k, 4, h, w] float32; pictures [k, 3, H, W] in -1..1, so many
    of them at once.
    """
    vae = svd.vae
    upcast = vae.dtype == torch.float16 and vae.config["force_upcast"]
    if upcast:
        vae.float()  # SVD's encoder overflows in half precision
    try:
        parts = pictures.contiguous().split(at_once)  # channels last computes other last digits
        latents = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist.mode() for part in parts]
    finally:
        if upcast:
            vae.half()  # exact: the weights came from there
    return torch.cat(latents).float()


def decode(svd: SVD, latents: Tensor) -> Tensor:
    """Pictures [t, 3, H, W] in -1..1 float32 of one segment; latents [t, 4, h, w] unscaled.

    The decoder is temporal: longer segments are decoded in windows of 8 frames that see two neighbours more.
    """
    vae = svd.vae
    latents = latents.to(vae.device, vae.dtype)
    parts = []
    for seen, kept in decode_windows(latents.shape[0]):
        window = latents[seen]
        parts.append(vae.decode(window, num_frames=len(window)).sample[kept].float())
    return torch.cat(parts).clamp(-1, 1)


def embed(image_encoder: CLIPVisionModelWithProjection, pictures: Tensor) -> Tensor:
    """Image embeddings [k, d]; pictures [k, 3, H, W] in -1..1.

    Squashed to the encoder's size without a crop, bicubic with antialiasing, rounded to 8 bits, as in
    ComfyUI's
    `clip_preprocess(crop=False)`.
    """
    size = image_encoder.config.image_size
    weight = next(image_encoder.parameters())
    unit = pictures.to(weight.device, torch.float32) / 2 + 0.5
    if unit.shape[2:] != (size, size):
        unit = F.interpolate(unit, (size, size), mode="bicubic", antialias=True)
    unit = (unit * 255).clamp(0, 255).round() / 255
    mean, std = (torch.tensor(v, device=unit.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return image_encoder(((unit - mean) / std).to(weight.dtype)).image_embeds
