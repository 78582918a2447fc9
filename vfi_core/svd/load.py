"""Stable Video Diffusion in diffusers' classes: built from its dimensions, loaded from disk, saved as a file.

The single file is laid out as ComfyUI's stock loader reads svd.safetensors. Ours carries every dimension as
JSON under the metadata key ``svd_vfi_config``; a file without it must have the shapes of Stability's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    UNetSpatioTemporalConditionModel,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..config import CONFIG_KEY, FULL_SIZE, SVDConfig
from ..dialect import PREFIXES, to_diffusers, to_single_file
from ..files import read_header, weight_files, write_safetensors
from ..kinds import PARTS, PICKLES, kind, refuse_other_formats
from .over_time import convolve_over_time

WANTED = kind([prefix + "time_stack." for prefix in PARTS.values()], {})
UNET_EPS = 1e-5  # ComfyUI's and Stability's; diffusers' ResNets say 1e-6, which moves the output by 1.2e-4


@dataclass
class SVD:
    """Stable Video Diffusion: three frozen models in eval mode, and the dimensions they were made from."""

    unet: UNetSpatioTemporalConditionModel
    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection
    config: SVDConfig
    name: str


def build(config: SVDConfig, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> SVD:
    """An SVD of these dimensions with the libraries' random weights; ``device="meta"`` allocates nothing."""
    vae_config = dict(config["vae"])
    vae_config.setdefault("down_block_types", ["DownEncoderBlock2D"] * len(vae_config["block_out_channels"]))
    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**_tuples(config["unet"]))
        vae = AutoencoderKLTemporalDecoder(**_tuples(vae_config))
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["image_encoder"]))
    for name, module in unet.named_modules():
        if (
            isinstance(module, nn.GroupNorm) and ".resnets." in name
        ):  # the transformers' norms are 1e-6 in both hosts
            module.eps = UNET_EPS
    for model in (unet, vae, image_encoder):
        # diffusers' own `to` logs a warning about nothing; its mix factors ignored the device above.
        nn.Module.to(model, device, dtype).eval().requires_grad_(False)
        convolve_over_time(model)
    return SVD(unet, vae, image_encoder, config, "random weights")


def load_svd(
    source: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> SVD:
    """SVD from a single .safetensors file, a diffusers folder or a hub id (``owner/name``, downloaded once).

    Weights are read one tensor at a time into a model that holds none: the peak is about one copy of it.
    Raises ValueError if the file is missing, damaged, no SVD (it says what it is), of other shapes or NaN.
    """
    path = Path(source)
    if path.is_file():
        return _load_single_file(path, torch.device(device), dtype)
    if path.is_dir():
        return _load_folder(path, torch.device(device), dtype)
    if (
        isinstance(source, str)
        and source.count("/") == 1
        and path.suffix not in (".safetensors", *PICKLES)
        and not source.startswith((".", "/"))
    ):
        return _load_folder(_download(source), torch.device(device), dtype, name=source)
    raise ValueError(
        f"{source} does not exist; give a .safetensors file, a diffusers folder or a hub id owner/name"
    )


def config_of(source: str | Path) -> SVDConfig:
    """The dimensions of a base, read off its header or its folder; no weight is. A hub id that is not on this
    disk is taken for one of Stability's.

    Raises ValueError for a file that is no SVD's.
    """
    path = Path(source)
    if path.is_file():
        names, metadata = read_header(path)
        if (what := kind(names, metadata)) != WANTED:
            raise ValueError(
                f"{path.name} is {what}; give Stable Video Diffusion's checkpoint, svd or svd_xt"
            )
        return _config_of(path, metadata)
    return _config_of_folder(path) if path.is_dir() else FULL_SIZE


def save_single_file(svd: SVD, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write ``svd`` in ComfyUI's single-file layout, its dimensions in the metadata; whole or not at all.

    Raises ValueError if the folder is missing, or a weight does not fit ``dtype``.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    for section, model in _sections(svd):
        for key, tensor in to_single_file(section, model.state_dict()).items():
            tensors[PREFIXES[section] + key] = tensor.detach().to("cpu", dtype).contiguous()
    for key, tensor in tensors.items():
        _check_finite(key, tensor, f"cannot save {path.name} as {dtype}")
    write_safetensors(path, tensors, {"format": "pt", CONFIG_KEY: json.dumps(svd.config)})


def _sections(svd: SVD) -> list[tuple[str, nn.Module]]:
    return [("unet", svd.unet), ("vae", svd.vae), ("image_encoder", svd.image_encoder)]


def _load_single_file(path: Path, device: torch.device, dtype: torch.dtype) -> SVD:
    refuse_other_formats(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            if (what := kind(shapes, metadata)) != WANTED:
                raise ValueError(
                    f"{path.name} is {what}; give Stable Video Diffusion's checkpoint, svd or svd_xt"
                )
            svd = _empty(_config_of(path, metadata), dtype, path.name)
            for section, model in _sections(svd):
                prefix = PREFIXES[section]
                wanted = to_single_file(section, model.state_dict())
                _check_shapes(path, {prefix + key: tuple(t.shape) for key, t in wanted.items()}, shapes)
                state = {key: _read(file, path, prefix + key, device, dtype) for key in wanted}
                _fill(model, to_diffusers(section, state), device)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut short ({error}); download it again") from error
    return svd


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype, name: str = "") -> SVD:
    missing = [s for s in PREFIXES if not (folder / s / "config.json").is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no diffusers folder of Stable Video Diffusion: "
            f"{missing[0]}/config.json is missing; give the folder that holds unet, vae and image_encoder"
        )
    svd = _empty(_config_of_folder(folder), dtype, name or folder.name)
    for section, model in _sections(svd):
        wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        state: dict[str, Tensor] = {}
        found: dict[str, tuple[int, ...]] = {}
        files = weight_files(folder / section)
        try:
            for path in files:
                with safe_open(path, framework="pt") as file:
                    here = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                    _check_shapes(path, {key: wanted[key] for key in here if key in wanted}, here)
                    state |= {key: _read(file, path, key, device, dtype) for key in here if key in wanted}
                    found |= here
        except SafetensorError as error:
            raise ValueError(f"a file in {folder / section} is damaged or cut short ({error})") from error
        _check_shapes(folder / section, wanted, found)
        _fill(model, state, device)
    return svd


def _empty(config: SVDConfig, dtype: torch.dtype, name: str) -> SVD:
    svd = build(config, dtype, "meta")
    svd.name = name
    return svd


def _fill(model: nn.Module, state: dict[str, Tensor], device: torch.device) -> None:
    """Give a meta ``model`` its weights, without copying them, and the one buffer that is not a weight."""
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            parent, _, leaf = name.rpartition(".")
            if leaf != "position_ids":  # CLIP's: it counts the tokens and is never saved
                raise RuntimeError(
                    f"buffer {name} is in no file; this version of its library is unknown here"
                )
            count = torch.arange(buffer.shape[-1], device=device)[None]
            model.get_submodule(parent).register_buffer(leaf, count, persistent=False)


def _read(file: Any, path: Path, key: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = file.get_tensor(key)
    _check_finite(key, tensor, f"{path.name} is damaged")
    return tensor.to(device, dtype)


def _check_finite(key: str, tensor: Tensor, what: str) -> None:
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{what}: {key} holds NaN or infinite values")


def _check_shapes(
    path: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    for key, shape in wanted.items():
        if key not in found:
            raise ValueError(
                f"{path.name} lacks {key}; it is incomplete or no Stable Video Diffusion checkpoint"
            )
        if found[key] != shape:
            raise ValueError(
                f"{path.name}: {key} is {list(found[key])} where Stable Video Diffusion of these dimensions "
                f"has {list(shape)}; it is another model"
            )


def _config_of(path: Path, metadata: Mapping[str, str]) -> SVDConfig:
    if CONFIG_KEY not in metadata:
        return FULL_SIZE
    try:
        config = json.loads(metadata[CONFIG_KEY])
        lacking = [key for key in FULL_SIZE if key not in config]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path.name}: metadata {CONFIG_KEY} is no JSON object ({error})") from error
    if lacking:
        raise ValueError(f"{path.name}: metadata {CONFIG_KEY} lacks {', '.join(lacking)}")
    return config


def _config_of_folder(folder: Path) -> SVDConfig:
    """The dimensions of a diffusers folder, which knows no frame rate, motion or size: `FULL_SIZE`'s."""

    def read(part: str, keys: Iterable[str]) -> dict[str, Any]:
        path = folder / part
        if not path.is_file():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON ({error}); download it again") from error
        return {key: values[key] for key in keys if key in values}

    unet = read("unet/config.json", FULL_SIZE["unet"])
    schedule = read("scheduler/scheduler_config.json", ("sigma_min", "sigma_max"))
    return FULL_SIZE | {
        "unet": FULL_SIZE["unet"] | unet,
        "vae": FULL_SIZE["vae"] | read("vae/config.json", FULL_SIZE["vae"]),
        "image_encoder": FULL_SIZE["image_encoder"]
        | read("image_encoder/config.json", FULL_SIZE["image_encoder"]),
        "frames": unet.get("num_frames", FULL_SIZE["frames"]),
        **{key: value for key, value in schedule.items() if value is not None},
    }


def _download(name: str) -> Path:
    from diffusers import StableVideoDiffusionPipeline  # slow, and warns of packages only it wants

    try:
        return Path(StableVideoDiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} is no file or folder here and cannot be fetched from the hub ({reason})"
        ) from error


def _tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples: diffusers compares and hashes some of them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
