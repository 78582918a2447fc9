"""IMAGEs into latents and conditioning, and latents back into IMAGEs, by the host's VAE and image encoder.

Legend: k keyframes, t frames, H W pixels, h w latent (H / 8, W / 8), d channels of the image embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from torch import Tensor

from ...vfi_core.adapter import Options
from ...vfi_core.config import UNTOLD_GUIDANCE
from ...vfi_core.decoding import decode_windows
from ...vfi_core.keyframes import Keyframes, concat_latent
from ...vfi_core.samplers import augmentation_noise
from .control import KEY, ConditionEncoderControl

# In the conditioning: (ends, middle) the model was trained for; (positive, negative) of the clip backwards;
# (latents [k, 4, h, w] of the augmented keyframes, embeddings [2, d] of the ends), zeros in the negative.
GUIDANCE_KEY, TURNED_KEY, SHOWN_KEY = "svd_vfi_guidance", "svd_vfi_turned", "svd_vfi_shown"

Conditioning = list[list[Any]]


def check_vae(vae: Any) -> None:
    """Raises ValueError for a VAE whose decoder is not SVD's temporal one."""
    model = vae.first_stage_model
    if not isinstance(getattr(model, "decoder", None), VideoDecoder):
        raise ValueError(
            f"this VAE is {type(model).__name__} without a temporal decoder; connect the VAE of the Stable "
            "Video Diffusion checkpoint"
        )


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """VAE `mode()`, unscaled (not x 0.18215), [k, 4, h, w] float32; pictures [k, H, W, 3] in 0..1."""
    check_vae(vae)
    return torch.cat([vae.encode(picture[None]) for picture in pictures]).float().cpu()


def decode(vae: Any, latents: Tensor, progress: Callable[[], None] = lambda: None) -> Tensor:
    """Pictures [t, H, W, 3] in 0..1 float32 of one segment; latents [t, 4, h, w] unscaled.

    In fixed windows, each whole in one pass: `VAE.decode` would cut them by free memory, and change the
    film. Where a window does not fit, everything else is unloaded; where it still does not, it is halved,
    which is said in the log. ``progress`` is called after each window; a cancel takes effect there.
    """
    check_vae(vae)
    parts = []
    for seen, kept in decode_windows(len(latents)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(decode_window(vae, latents[seen])[kept])
        progress()
    return torch.cat(parts)


def decode_window(vae: Any, latents: Tensor) -> Tensor:
    def run(latents: Tensor) -> Tensor:
        memory = vae.memory_used_decode(latents.shape, vae.vae_dtype) * len(latents)
        # The host's figure is for its own way of attention; as for its other videos, it may ask for most.
        memory = min(memory, int(comfy.model_management.get_total_memory(vae.device) * 0.8))
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
        out = vae.first_stage_model.decode(latents.to(vae.device, vae.vae_dtype))
        return (
            ((out.float() + 1) / 2)
            .clamp(0, 1)
            .movedim(1, -1)
            .to(comfy.model_management.intermediate_device())
        )

    try:
        return run(latents)
    except Exception as error:
        if not is_oom(error):
            raise
        reason = str(error)
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    try:
        return run(latents)
    except Exception as error:
        if not is_oom(error) or len(latents) < 2:
            raise
    logging.warning("SVD VFI: %d frames do not fit in one decode (%s); halving them", len(latents), reason)
    comfy.model_management.soft_empty_cache()
    half = len(latents) // 2
    return torch.cat([decode_window(vae, latents[:half]), decode_window(vae, latents[half:])])


def is_oom(error: BaseException) -> bool:
    """Whether this is lack of memory; 0.33 knows more of its faces than 0.3.64."""
    asked = getattr(comfy.model_management, "is_oom", None)
    if asked is not None and comfy.model_management.OOM_EXCEPTION is not Exception:
        return asked(error)
    return isinstance(error, torch.OutOfMemoryError)


def condition(
    clip_vision: Any,
    vae: Any,
    pictures: Tensor,
    keyframes: Keyframes,
    control: ConditionEncoderControl | None,
    told: Mapping[str, Any],
    seed: int,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    refresh: int = 1,
) -> tuple[Conditioning, Conditioning]:
    """(positive, negative) of one segment; with them goes the same for the segment backwards.

    pictures  [k, H, W, 3] in 0..1, at the size the keyframes were encoded at
    told      fps, motion_bucket_id, augmentation, and the trained guidance; augmentation is also the
              deviation of the noise on the concatenated condition, in pixels of -1..1
    seed      of that noise, on the CPU: the same numbers in every host
    control   the adapter's condition encoder, bound here to these keyframes; one object for both branches, so
              that the host batches them
    """
    if not isinstance(control, ConditionEncoderControl | None):
        raise ValueError(
            f"this CONTROL_NET is {type(control).__name__}, not the condition encoder of an adapter; connect "
            "'SVD VFI Apply Adapter' here, and other ControlNets behind"
        )
    options = control.adapter.options if control else Options()
    embedded = clip_vision.encode_image(pictures[[0, -1]], crop=False).image_embeds  # [2, d]
    latents = keyframes.latents
    if told["augmentation"]:
        noise = augmentation_noise(*pictures.shape[:3], seed).movedim(1, -1)
        latents = encode(vae, pictures + told["augmentation"] / 2 * noise)

    def told_of(
        keyframes: Keyframes, latents: Tensor, embedded: Tensor, **more: Any
    ) -> tuple[Conditioning, Conditioning]:
        context = embedded.mean(0, keepdim=True) if options.clip_tokens == "mean" else embedded[:1]
        concat = concat_latent(latents, keyframes.positions, keyframes.length, options.concat_latent)
        shared = {
            "fps": told["fps"],
            "motion_bucket_id": told["motion_bucket_id"],
            "augmentation_level": told["augmentation"],
            KEY: keyframes,
            GUIDANCE_KEY: tuple(told.get("guidance") or UNTOLD_GUIDANCE),
        } | more
        if control is not None:
            shared["control"] = control.bound(keyframes, strength, start, end, refresh)
            shared["control_apply_to_uncond"] = False
        known = {"concat_latent_image": concat, SHOWN_KEY: (latents, embedded)}
        nothing = {
            "concat_latent_image": torch.zeros_like(concat),
            SHOWN_KEY: (torch.zeros_like(latents), torch.zeros_like(embedded)),
        }
        return [[context[None], shared | known]], [[torch.zeros_like(context[None]), shared | nothing]]

    turned = told_of(keyframes.turned, latents.flip(0), embedded.flip(0))
    return told_of(keyframes, latents, embedded, **{TURNED_KEY: turned})
