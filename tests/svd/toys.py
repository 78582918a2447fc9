"""The smallest legal SVD, all of its weights random: widths of 32 and 64, built in half a second."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from vfi_core.dialect import ATTENDS
from vfi_core.reversal import BLOCK, TUNED
from vfi_core.svd.load import SVD, SVDConfig, build

SPARSE = (False, True, True, False)  # no transformers on the finest level


def toy_config(layers: int = 1, attends: Sequence[bool] = ATTENDS) -> SVDConfig:
    """The toy's dimensions: heads are 32 wide, a picture 64 pixels, its latents 8. SVD has 2 layers."""
    kinds = [("CrossAttn" if attending else "", "BlockSpatioTemporal") for attending in attends]
    return {
        "unet": {
            "down_block_types": ["Down".join(kind) for kind in kinds],
            "up_block_types": ["Up".join(kind) for kind in reversed(kinds)],
            "block_out_channels": [32, 64, 64, 64],
            "layers_per_block": layers,
            "num_attention_heads": [1, 2, 2, 2],
            "cross_attention_dim": 32,
            "addition_time_embed_dim": 256,  # ComfyUI's SVD_img2vid has this number in its code
            "projection_class_embeddings_input_dim": 768,
            "num_frames": 7,
            "sample_size": 8,
        },
        "vae": {
            "block_out_channels": [32, 32, 32, 32],
            "layers_per_block": layers,
            "latent_channels": 4,
            "sample_size": 64,
            "scaling_factor": 0.18215,
            "force_upcast": False,
        },
        "image_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        },
        "sigma_min": 0.02,
        "sigma_max": 80.0,
        "frames": 7,
        "fps": 7,
        "motion_bucket_id": 127,
        "augmentation": 0.02,
        "size": [64, 64],
    }


@cache
def toy_svd(seed: int = 0, layers: int = 1, attends: Sequence[bool] = ATTENDS) -> SVD:
    """One toy per seed and session: frozen, so share it; deep-copy it before changing a weight.

    Matrices are normal with variance 1 / fan-in, norms near 1, biases and mixes small: nothing is zero.
    """
    svd = build(toy_config(layers, attends), device="meta")
    generator = torch.Generator().manual_seed(seed)
    for model in (svd.unet, svd.vae, svd.image_encoder):
        model.to_empty(device="cpu")
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                noise /= weight[0].numel() ** 0.5
            elif name.endswith("weight"):
                noise = 1 + 0.1 * noise
            else:
                noise *= 0.1
            weight.copy_(noise)
    ids = svd.image_encoder.vision_model.embeddings.position_ids
    ids.copy_(torch.arange(ids.shape[-1])[None])
    return svd


def tuned_unet(svd: SVD, moved: float = 0.3) -> dict[str, torch.Tensor]:
    """The U-Net's weights with those that reversed motion tunes moved by ``moved`` of their deviation."""
    generator = torch.Generator().manual_seed(9)
    state = {name: weight.clone() for name, weight in svd.unet.state_dict().items()}
    for name, weight in state.items():
        if f".{BLOCK}." in name and name.endswith(tuple(TUNED)):
            scale = weight[0].numel() ** 0.5 if weight.ndim > 1 else 3
            weight += moved * torch.randn(weight.shape, generator=generator) / scale
    return state


def toy_framer(layers: int = 1) -> dict[str, Tensor]:
    """Framer's U-Net for a toy: temporal attention and `conv_in` moved, a ninth channel, a token."""
    generator = torch.Generator().manual_seed(2)
    tensors = {name: weight.clone() for name, weight in toy_svd(layers=layers).unet.state_dict().items()}
    for name, weight in tensors.items():
        if "temporal_transformer_blocks" in name:
            weight += 0.3 * weight.std().nan_to_num(0.1) * torch.randn(weight.shape, generator=generator)
    conv = tensors["conv_in.weight"]
    tensors["conv_in.weight"] = torch.cat(
        [1.1 * conv, torch.randn(len(conv), 1, 3, 3, generator=generator)], 1
    )
    tensors["mask_token"] = torch.randn(1, 1, 4, 1, 1, generator=generator)
    return tensors
