"""SVD's checkpoint into the host's own objects: a MODEL, a CLIP_VISION and a VAE.

A full-size file goes through the host's loader. The miniature, which the host's detection refuses for its
widths, is built from the same host classes with the dimensions that stand in the file's metadata; no global
of the host is touched.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...vfi_core.config import CONFIG_KEY, FULL_SIZE
from ...vfi_core.dialect import PREFIXES
from ...vfi_core.kinds import PARTS, kind, refuse_other_formats

SMALLEST_VAE = {
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 8,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
    "embed_dim": 4,
}
WANTED = kind([prefix + "time_stack." for prefix in PARTS.values()], {})
# 0.33 has both, for weights that stay on disk (dynamic VRAM); 0.3.64 neither.
Patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def load_checkpoint(path: Path) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP_VISION, VAE) of a Stable Video Diffusion checkpoint, full size or miniature.

    Raises ValueError in one sentence for a missing file, a damaged one, or one of another kind.
    """
    metadata = check_checkpoint(path)
    if CONFIG_KEY not in metadata:
        model, _, vae, clip_vision = comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=True, output_clip=False, output_clipvision=True
        )
        return model, clip_vision, vae
    config = json.loads(metadata[CONFIG_KEY])
    state = comfy.utils.load_torch_file(str(path), safe_load=True)
    vae = build_vae(section(state, PREFIXES["vae"]), config["vae"])
    setattr(vae.first_stage_model, CONFIG_KEY, config)
    clip_vision = build_clip_vision(state, config["image_encoder"])
    return load_miniature(str(path)), clip_vision, vae


def conditions_of(vae: Any) -> Mapping[str, Any]:
    """frames, size, fps ... that the base was trained under, told by its VAE: every node that asks has one.
    A VAE of another loader is a full-size SVD's.
    """
    return getattr(vae.first_stage_model, CONFIG_KEY, FULL_SIZE)


def check_checkpoint(path: Path) -> Mapping[str, str]:
    """The metadata of an SVD checkpoint. Raises ValueError if it is missing, damaged, or something else."""
    if not path.is_file():
        raise ValueError(f"{path} is gone; choose a checkpoint that is there")
    refuse_other_formats(path)
    try:
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut short ({error}); download it again") from error
    if (what := kind(names, metadata)) != WANTED:
        raise ValueError(f"{path.name} is {what}; choose Stable Video Diffusion's checkpoint, svd or svd_xt")
    return metadata


def load_miniature(path: str, disable_dynamic: bool = False) -> Any:
    """The MODEL of a miniature; the host calls this again for another device, and for compiling."""
    state, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    config = json.loads(metadata[CONFIG_KEY])
    unet, prefix = config["unet"], PREFIXES["unet"]
    heads = unet["num_attention_heads"][0]

    class Miniature(comfy.supported_models.SVD_img2vid):
        unet_extra_config = comfy.supported_models.SVD_img2vid.unet_extra_config | {
            "num_head_channels": unet["block_out_channels"][0] // heads
        }
        sampling_settings = {"sigma_max": config["sigma_max"], "sigma_min": config["sigma_min"]}

    model_config = Miniature(comfy.model_detection.detect_unet_config(state, prefix))
    # Full precision everywhere: it is small enough, and the hosts then agree to the last digits.
    model_config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SVD_img2vid(model_config)
    fill(model.diffusion_model, section(state, prefix))
    engine = build_autoencoder(section(state, PREFIXES["vae"]), config["vae"])
    model.latent_format = preview_colours(engine, model.latent_format.scale_factor)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else Patcher
    patcher = patcher_class(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = (load_miniature, (path,))
    return patcher


@dataclass(frozen=True)
class Width:
    """A level's own width where the host multiplies the first one: ``ch * Width(96)`` is 96."""

    channels: int

    def __rmul__(self, _ch: int) -> int:
        return self.channels


def build_autoencoder(state: dict[str, Tensor], config: Mapping[str, Any]) -> AutoencodingEngine:
    """The temporal autoencoder that the host knows, with widths of its own."""
    widths = config["block_out_channels"]
    encoder = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [Width(width) for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    engine = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": encoder},
        decoder_config={
            "target": "comfy.ldm.modules.temporal_ae.VideoDecoder",
            "params": encoder | {"video_kernel_size": [3, 1, 1], "alpha": 0.0},
        },
    ).eval()
    fill(engine, state)
    return engine


def build_vae(state: dict[str, Tensor], config: Mapping[str, Any]) -> comfy.sd.VAE:
    """The host's VAE around `build_autoencoder`'s."""
    engine = build_autoencoder(state, config)
    # `comfy.sd.VAE` knows its models by their keys and would make this one 128 channels wide: it is given a
    # small one that it can make, and then ours.
    vae = comfy.sd.VAE(
        sd=AutoencoderKL(**SMALLEST_VAE).state_dict(), config={"params": SMALLEST_VAE}, dtype=torch.float32
    )
    vae.first_stage_model, vae.size = engine, None
    vae.patcher = Patcher(
        engine, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    return vae


@torch.no_grad()
def preview_colours(engine: AutoencodingEngine, scale: float) -> comfy.latent_formats.LatentFormat:
    """The latent format with the linear map to colours that the host draws previews by, fitted to this VAE:
    Stable Diffusion's own map shows other latents in false colours.
    """
    coarse = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    latents = F.interpolate(coarse, (8, 8), mode="bicubic")  # scaled latents have unit variance
    pictures = torch.cat([engine.decode(one[None] / scale) for one in latents])
    colours = F.interpolate(pictures, (8, 8), mode="area").movedim(1, -1).reshape(-1, 3)
    known = F.pad(latents.movedim(1, -1).reshape(-1, 4), (0, 1), value=1.0)
    fitted = torch.linalg.lstsq(known, colours).solution.tolist()  # [5, 3]: four channels, a constant
    latent_format = comfy.latent_formats.SD15(scale)
    latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias = fitted[:4], fitted[4]
    latent_format.taesd_decoder_name = None
    return latent_format


def build_clip_vision(state: dict[str, Tensor], config: Mapping[str, Any]) -> Any:
    """The image encoder in the host's class, which takes its dimensions from a JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip_vision.json"
        path.write_text(json.dumps({**config, "model_type": "clip_vision_model", "num_channels": 3}))
        encoder = comfy.clip_vision.ClipVisionModel(str(path))
    encoder.model.float()
    encoder.dtype = torch.float32
    prefix = PREFIXES["image_encoder"]
    mine = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    fill(encoder.model, comfy.clip_vision.convert_to_transformers(mine, prefix))
    return encoder


def section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load every weight: host modules leave theirs uninitialised, so a missing one would be noise.

    Raises ValueError naming the first that is missing or has no place.
    """
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [key for key in missing if "position_ids" not in key]
    if missing or unexpected:
        raise ValueError(f"the checkpoint lacks {missing[0]}" if missing else f"{unexpected[0]} has no place")
    module.requires_grad_(False)
