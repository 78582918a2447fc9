"""Reversed motion on the host's U-Net: tuned changes it can move, and the wrapper in which they act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...vfi_core.dialect import rename, unet_table
from ...vfi_core.reversal import Reversal, keeping, reversing, turned_sites
from .control import KEY, check_whole
from .encoder import OPERATIONS, blocks_of, inference_dtype, load, patcher_of


def build_turned(model: Any, reversal: Reversal, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """A patcher of the changes (`Sites` of `TurnedAttention`). ValueError for weights of another base.

    shapes  of the MODEL's U-Net by diffusers' names
    """
    names = [name for name in reversal.tuned if name in shapes]
    return turned_patcher(reversal.deltas(own_weights(model, names)), inference_dtype(model))


def turned_patcher(deltas: Mapping[str, Tensor], dtype: torch.dtype, disable_dynamic: bool = False) -> Any:
    """Of the changes; the host calls this again for another GPU."""
    sites = turned_sites(deltas, OPERATIONS)
    load(sites, deltas, dtype)
    patcher = patcher_of(sites, disable_dynamic)
    patcher.cached_patcher_init = (turned_patcher, (deltas, dtype))
    return patcher


def own_weights(model: Any, names: list[str]) -> dict[str, Tensor]:
    """Some of the U-Net's own weights by diffusers' names, without any LoRA (see `original_weights`)."""
    table = unet_table(model.model.diffusion_model.num_res_blocks[0])
    patches = model.get_key_patches("diffusion_model.")
    own = ((name, patches[f"diffusion_model.{rename(name, table)}"][0]) for name in names)
    return {name: convert(weight.detach(), inplace=False) for name, (weight, convert) in own}


@torch.compiler.disable  # a compiled U-Net would run with the hooks, or without them, that it was traced with
def turn(
    executor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
    **kwargs: Any,
) -> Tensor:
    """Around one call of the U-Net: onwards its temporal maps are kept, backwards they are used."""
    run = transformer_options.get(KEY)
    if run is None:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    check_whole(run.keyframes, x, transformer_options, kwargs)
    sites, branches = run.sites(x.device), transformer_options["cond_or_uncond"]
    blocks, _ = blocks_of(executor.class_obj, sites)
    if run.turned:
        acting = reversing(sites, blocks, run.maps, branches)
    else:
        acting = keeping(blocks, run.maps, branches)
    with acting:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
