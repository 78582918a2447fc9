"""The condition encoder over the host's own U-Net, and keyframe attention as modules the host can move.

Legend: b rows of the batch, t frames, c channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    UNetModel,
    forward_timestep_embed,
    timestep_embedding,
)
from torch import Tensor, nn

from ...vfi_core.adapter import Adapter, lora_paths, merged_weight
from ...vfi_core.attention import KeyframeAttention, Sites
from ...vfi_core.dialect import to_diffusers, to_single_file, unet_path_to_comfy
from ...vfi_core.encoder import ConditionEncoder, residual_channels, trunk_names
from .checkpoint import Patcher, section

OPERATIONS = comfy.ops.manual_cast  # weights may rest elsewhere, or in another precision


class Trunk(nn.Module):
    """ComfyUI's U-Net with its decoder deleted, and an addition after conv_in."""

    def __init__(self, unet_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet = UNetModel(**unet_config, device="meta", operations=OPERATIONS)
        del self.unet.output_blocks, self.unet.out

    def forward(
        self, x: Tensor, stem: Tensor, *, c_noise: Tensor, context: Tensor, y: Tensor, frames: int
    ) -> list[Tensor]:
        """The skip tensors, then the middle one, each [(b t), c, h, w].

        x, stem  [(b t), 8, h, w] and [(b t), C0, h, w], added to conv_in's output
        c_noise  [(b t)]; context [(b t), n, d]; y [(b t), 768], the embedded ids
        """
        # The lines of UNetModel._forward up to its decoder, and the stem.
        unet, options = self.unet, {}
        embedding = unet.time_embed(timestep_embedding(c_noise, unet.model_channels).to(x.dtype))
        embedding = embedding + unet.label_emb(y)
        features = []
        for i, block in enumerate([*unet.input_blocks, unet.middle_block]):
            x = forward_timestep_embed(block, x, embedding, context, options, num_video_frames=frames)
            features.append(x := x + stem if i == 0 else x)
        return features


class EncoderModules(nn.Module):
    """What of an adapter runs before the U-Net: the condition encoder, its own keyframe attention."""

    def __init__(self, encoder: ConditionEncoder, sites: Sites | None) -> None:
        super().__init__()
        self.encoder, self.sites = encoder, sites


def check_model(model: Any) -> dict[str, tuple[int, ...]]:
    """A MODEL's U-Net shapes by diffusers' names. Raises ValueError for a MODEL that is not SVD."""
    base = model.model
    if type(base) is not comfy.model_base.SVD_img2vid:
        raise ValueError(
            f"this MODEL is {type(base).__name__}, not Stable Video Diffusion; "
            "load svd or svd_xt for in-betweening"
        )
    state = base.diffusion_model.state_dict()
    return {name: tuple(t.shape) for name, t in to_diffusers("unet", meta(state)).items()}


def meta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shapes alone: renaming is all that is asked of them."""
    return {name: torch.empty(tensor.shape, device="meta") for name, tensor in state.items()}


def original_weights(model: Any) -> dict[str, Tensor]:
    """The U-Net's own weights by diffusers' names, whatever LoRA is on the MODEL or patched in right now.

    Entry 0 of each key's patches is the original with how to read it (fp8, scaled); state_dict() is not: a
    loaded LoRA is patched in place there.
    """
    prefix = "diffusion_model."
    weights = {}
    for key, patches in model.get_key_patches(prefix).items():
        weight, convert = patches[0]
        weights[key.removeprefix(prefix)] = convert(weight.detach(), inplace=False)
    return to_diffusers("unet", weights)


def head_dim(model: Any) -> int:
    """Channels of an attention head (64 in SVD)."""
    return model.model.model_config.unet_config["num_head_channels"]


def inference_dtype(model: Any) -> torch.dtype:
    """What the U-Net computes in (0.33 has `get_dtype_inference` for it)."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def build_encoder(model: Any, adapter: Adapter) -> Any:
    """A patcher of the condition encoder (`EncoderModules`) on the base's original weights."""
    base = original_weights(model)
    shapes = {name: tuple(t.shape) for name, t in base.items()}
    dtype = inference_dtype(model)
    tensors, options = adapter.tensors, adapter.options
    trunk = {name: tensors.get(f"encoder.trunk.{name}", base[name]) for name in trunk_names(base)}
    for path in lora_paths(tensors):
        pair = (tensors[f"encoder.lora.{path}.lora_{m}.weight"] for m in "AB")
        # in float32: an fp8 base would round the change away
        trunk[f"{path}.weight"] = merged_weight(trunk[f"{path}.weight"].float(), *pair, options)
    config = dict(model.model.model_config.unet_config) | {"dtype": dtype}
    config.pop("disable_unet_model_creation", None)
    encoder = ConditionEncoder(Trunk(config), residual_channels(shapes), operations=OPERATIONS)
    load(encoder.trunk.unet, to_single_file("unet", trunk), dtype)
    for part, module in (("stem", encoder.stem), ("out", encoder.out)):
        load(module, section(tensors, f"encoder.{part}."), dtype)
    sites = build_sites(adapter, "encoder", dtype) if "encoder" in options.attends else None
    return patcher_of(EncoderModules(encoder, sites))


def build_attention(model: Any, adapter: Adapter) -> Any | None:
    """A patcher of the U-Net's keyframe attention (`Sites`), None where the adapter has none there."""
    if "unet" not in adapter.options.attends:
        return None
    return attention_patcher(adapter, inference_dtype(model))


def attention_patcher(adapter: Adapter, dtype: torch.dtype, disable_dynamic: bool = False) -> Any:
    """Of the U-Net's `Sites`; the host calls this again for another GPU."""
    patcher = patcher_of(build_sites(adapter, "unet", dtype), disable_dynamic)
    patcher.cached_patcher_init = (attention_patcher, (adapter, dtype))
    return patcher


def build_sites(adapter: Adapter, where: str, dtype: torch.dtype) -> Sites:
    mine = section(adapter.tensors, f"attention.{where}.")
    widths = {key.removesuffix(".q.weight"): len(t) for key, t in mine.items() if key.endswith(".q.weight")}
    options = adapter.options
    sites = Sites(
        {
            path: KeyframeAttention(width, adapter.head_dim, options.kf_join, options.kf_pool, OPERATIONS)
            for path, width in widths.items()
        }
    )
    load(sites, mine, dtype)
    return sites


def load(module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Every weight at rest, copied where it is elsewhere (a base in use) or of another dtype.

    RuntimeError for one that is missing.
    """
    rest = comfy.model_management.unet_offload_device()
    state = {key: tensor.detach().to(rest, dtype) for key, tensor in state.items()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def patcher_of(module: nn.Module, disable_dynamic: bool = False) -> Any:
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else Patcher
    return patcher_class(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def blocks_of(unet: nn.Module, sites: Sites) -> tuple[dict[str, nn.Module], frozenset[str]]:
    """The host's block of every site, and the sites whose tokens come (b s) t c: its temporal blocks."""
    layers = unet.num_res_blocks[0]
    blocks = {path: unet.get_submodule(unet_path_to_comfy(path, layers)) for path, _ in sites.items()}
    return blocks, frozenset(path for path in blocks if "temporal_transformer_blocks" in path)
