"""Framer's weights on a MODEL: patches like any other, the ninth channel by a wrapper, and what it is shown.

Legend: b chunks of the batch (branches of guidance), t frames, c channels, h w latent.
"""

from __future__ import annotations

import uuid
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...vfi_core.dialect import unet_path_to_comfy
from ...vfi_core.framer import Framer, missing
from .control import KEY, check_whole
from .encoder import original_weights
from .pictures import SHOWN_KEY

PREFIX = "diffusion_model."  # of the U-Net's keys in a MODEL


def set_weights(patched: Any, framer: Framer) -> None:
    """Framer's weights as "set" patches of the clone, below whatever LoRA is on it.

    The host runs a key's patches in order, and "set" forgets those before it: a LoRA that came first would be
    lost.
    """
    layers = patched.model.diffusion_model.num_res_blocks[0]
    changes = framer.changes(original_weights(patched))
    mine = {PREFIX + unet_path_to_comfy(name, layers): ("set", (new,)) for name, new in changes.items()}
    above = {key: patched.patches.pop(key) for key in mine if key in patched.patches}
    patched.add_patches(mine)
    for key, patches in above.items():
        patched.patches[key] = [*patched.patches[key], *patches]
    patched.set_attachments(KEY, mine)


def unset_weights(patched: Any) -> None:
    """Take from the clone what `set_weights` put on it, if anything."""
    mine: dict[str, tuple] = patched.attachments.get(KEY, {})
    if not mine:
        return
    for key, patch in mine.items():
        rest = [other for other in patched.patches.pop(key, []) if other[1] is not patch]
        if rest:
            patched.patches[key] = rest
    patched.patches_uuid = uuid.uuid4()  # or the host would take the weights for those it has loaded
    patched.remove_attachments(KEY)


def show(conds: dict[str, list[dict[str, Any]]], framer: Framer) -> dict[str, list[dict[str, Any]]]:
    """A sampling's conditions with what Framer reads in place of SVD's concatenated latent and embedding.

    Raises ValueError for one that 'SVD VFI Conditioning' did not make.
    """

    def shown(cond: dict[str, Any]) -> dict[str, Any]:
        if KEY not in cond or SHOWN_KEY not in cond:
            raise ValueError(
                f"{framer.name} reads both keyframes in every branch of guidance, and one has none; "
                "connect both outputs of 'SVD VFI Conditioning'"
            )
        latents, embedded = cond[SHOWN_KEY]
        concat = framer.concat_latent(latents, cond[KEY].positions, cond[KEY].length)
        return cond | {"concat_latent_image": concat, "cross_attn": embedded[None]}

    return {name: [shown(cond) for cond in branch] for name, branch in conds.items()}


@torch.compiler.disable  # a compiled U-Net would run with the hook, or without it, that it was traced with
def add_mask(
    executor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
    **kwargs: Any,
) -> Tensor:
    """Around one call of the U-Net: `conv_in`'s ninth channel, the mask, added to its output."""
    run = transformer_options.get(KEY)
    if run is None:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    keyframes = run.keyframes
    _, b = check_whole(keyframes, x, transformer_options, kwargs)
    weight = comfy.model_management.cast_to_device(run.adapter.mask_weight, x.device, x.dtype)
    mask = F.conv2d(missing(keyframes).to(x), weight, padding=1).repeat(b, 1, 1, 1)

    def hook(_conv: nn.Module, _args: tuple, out: Tensor) -> Tensor:
        return out + mask.to(out)

    handle = executor.class_obj.input_blocks[0][0].register_forward_hook(hook)
    try:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    finally:
        handle.remove()
